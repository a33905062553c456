from __future__ import annotations

from html.parser import HTMLParser

import pytest

from bitroute.envs.webshop.pages import (
    Mode,
    done_page,
    head,
    item_page,
    results_page,
    show,
    start_page,
    sub_page,
)
from support.webshop import product

ABOVE = head("Instruction:", "Find me")


def test_the_start_page() -> None:
    above, page = head("WebShop", "Instruction: ", "Find me"), start_page()
    assert show(Mode.TEXT, above, page, "u") == "WebShop [SEP] Instruction: [SEP] Find me [SEP] Search"
    assert show(Mode.TEXT_RICH, above, page, "u") == "WebShop\nInstruction: \nFind me\n[button] Search [button_]\n"
    assert show(Mode.URL, above, page, "u") == "u"
    assert list(page.targets) == ["search"]
    assert page.commands == ()


def test_results_show_visited_products_and_buttons_by_page() -> None:
    products = [product("B1", title="One"), product("B2", title="Two", price_tag="$1.0 to $2.5")]
    page = results_page(2, 12, products)
    assert show(Mode.TEXT, ABOVE, page, "u") == (
        "Instruction: [SEP] Find me [SEP] Back to Search [SEP] Page 2 (Total results: 12) [SEP] < Prev [SEP] Next > [SEP] "
        "B1 [SEP] One [SEP] $20.0 [SEP] B2 [SEP] Two [SEP] $1.0 to $2.5"
    )
    assert show(Mode.TEXT_RICH, ABOVE, page, "u", {"B2"}) == (
        "Instruction:\nFind me\n[button] Back to Search [button_]\nPage 2 (Total results: 12)\n[button] < Prev [button_]\n"
        "[button] Next > [button_]\n\n[button] B1 [button_]\nOne\n$20.0\n\n[clicked button] B2 [clicked button_]\nTwo\n"
        "$1.0 to $2.5\n"
    )
    assert list(page.targets) == ["back to search", "< prev", "next >", "b1", "b2"]
    assert page.commands == ("click[back to search]", "click[< prev]", "click[next >]", "click[b1]", "click[b2]")
    assert list(results_page(1, 0, []).targets) == ["back to search", "next >"]


def test_an_item_shows_options_in_the_order_of_the_file() -> None:
    page = item_page(product("B1", title="One", options=(("size", ("s", "m")), ("color", ("red",)))), show_attrs=False)
    assert show(Mode.TEXT, ABOVE, page, "u") == (
        "Instruction: [SEP] Find me [SEP] Back to Search [SEP] < Prev [SEP] size [SEP] s [SEP] m [SEP] color [SEP] red [SEP] "
        "One [SEP] Price: $20.0 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    )
    buttons = ["back to search", "< prev", "description", "features", "reviews", "buy now"]
    assert list(page.targets) == [*buttons, "s", "m", "red"]
    more = item_page(product("B1"), show_attrs=True)
    assert list(more.targets) == [*buttons[:-1], "attributes", "buy now"]


def test_chosen_values_stand_above_the_last_one_first() -> None:
    page = item_page(product("B1", title="One", options=(("size", ("s", "m")), ("color", ("red",)))), show_attrs=False)
    assert show(Mode.TEXT_RICH, ABOVE, page, 'x/{"color": "red", "size": "s"}').startswith(
        "You have clicked red.\nYou have clicked s.\nInstruction:\nFind me\n[button] Back to Search [button_]\n"
        "[button] < Prev [button_]\nsize\n  [clicked button] s [clicked button_]\n  [button] m [button_]\ncolor\n"
        "  [clicked button] red [clicked button_]\nOne\n"
    )
    assert "clicked" not in show(Mode.TEXT_RICH, ABOVE, page, "x/red/s/{}")


def test_of_equal_names_the_last_one_is_clicked_at_the_place_of_the_first() -> None:
    page = item_page(product(options=(("size", ("one", "features")), ("fit", ("two", "one")))), show_attrs=False)
    assert list(page.targets) == [*("back to search", "< prev", "description", "features", "reviews", "buy now", "one", "two")]
    assert page.targets["one"].option == "fit"
    assert page.targets["features"].option == "size"


def test_what_no_click_can_reach_is_no_command() -> None:
    page = item_page(product(options=(("size", ("x[1]", "two\nlines", "search", "", "fine")),)), show_attrs=False)
    assert list(page.targets)[-5:] == ["x[1]", "two\nlines", "search", "", "fine"]
    assert page.commands[-2:] == ("click[buy now]", "click[fine]")


@pytest.mark.parametrize(
    ("name", "below"),
    [
        ("Description", ["  A\n description "]),
        ("Features", [" one", "  two", " "]),
        ("Reviews", []),
        ("Attributes", [" a", " b", "garden", "console tables", "Home \u203a Furniture \u203a Tables"]),
    ],
)
def test_sub_pages(name: str, below: list[str]) -> None:
    page = sub_page(product(description="  A\n description ", bullets=("one", " two", ""), attributes=("a", "b")), name)
    assert show(Mode.TEXT_RICH, head(), page, "u") == "".join(
        f"{line}\n" for line in ["[button] Back to Search [button_]", "[button] < Prev [button_]", *below]
    )
    assert show(Mode.TEXT, head(), page, "u") == " [SEP] ".join(["Back to Search", "< Prev", *map(str.strip, below)])
    assert list(page.targets) == ["back to search", "< prev"]


@pytest.mark.parametrize(
    ("title", "rich", "text"),
    [
        ("", [], []),
        ("\n", [], []),
        (" \n\t", [], []),  # blanks with a newline are one newline, which is dropped
        ("   ", [" "], [""]),  # blanks alone are one, which is kept
        ("\t", [" "], [""]),
        ("\u00a0", ["\u00a0"], [""]),
        (" a\nb ", [" a\nb "], ["a\nb"]),
        ("<b>&amp;</b>", ["<b>&amp;</b>"], ["<b>&amp;</b>"]),
    ],
)
def test_blank_texts(title: str, rich: list[str], text: list[str]) -> None:
    page = results_page(1, 1, [product("B1", title=title)])
    lines = [
        "[button] Back to Search [button_]",
        "Page 1 (Total results: 1)",
        "[button] Next > [button_]",
        "\n[button] B1 [button_]",
    ]
    assert show(Mode.TEXT_RICH, head(), page, "u") == "".join(f"{line}\n" for line in [*lines, *rich, "$20.0"])
    assert show(Mode.TEXT, head(), page, "u").split(" [SEP] ")[4:] == [*text, "$20.0"]


def test_the_receipt() -> None:
    page = done_page("B1", {"size": "a'b", "color": '<\u00e9 & ">'}, 0.75)
    assert show(Mode.TEXT, head(), page, "u") == (
        "Thank you for shopping with us! [SEP] Your code: [SEP] None [SEP] (Paste it in your MTurk interface.) [SEP] Purchased "
        '[SEP] asin [SEP] B1 [SEP] options [SEP] {"color": "\\u003c\\u00e9 \\u0026 \\"\\u003e", "size": "a\\u0027b"} '
        "[SEP] attrs [SEP] None [SEP] category [SEP] None [SEP] query [SEP] None [SEP] product category "
        "[SEP] None [SEP] Target [SEP] asin "
        "[SEP] options [SEP] attrs [SEP] price upper [SEP] instuction text [SEP] category [SEP] product category [SEP] query "
        "[SEP] Goal [SEP] None [SEP] Reward [SEP] Your score (min 0.0, max 1.0) [SEP] 0.75 [SEP] Reward Details [SEP] None"
    )
    assert show(Mode.TEXT_RICH, head(), page, "u").startswith(
        "Thank you for shopping with us!\nYour code: \nNone\n (Paste it in your MTurk interface.)\nPurchased\n"
    )
    assert not page.targets


class _Reader(HTMLParser):
    """Reads texts, and what can be clicked as an agent of upstream's HTML finds it."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: list[str] = []
        self.buttons: list[str] = []
        self.values: list[tuple[str, str]] = []
        self._is_button = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self._is_button = found.get("class") in ("btn", "product-link")
        if found.get("type") == "radio":
            self.values.append((found["name"] or "", found["value"] or ""))

    def handle_data(self, data: str) -> None:
        if data.strip():
            self.texts.append(data)
            if self._is_button:
                self.buttons.append(data.lower())
                self._is_button = False


def test_html_holds_the_same_texts_and_targets() -> None:
    page = item_page(product("B1", title="<i>x</i> & y", options=(('na"me', ("it's", '28" x 28"')),)), show_attrs=True)
    reader = _Reader()
    reader.feed(show(Mode.HTML, ABOVE, page, "u"))
    assert reader.texts == show(Mode.TEXT, ABOVE, page, "u").split(" [SEP] ")
    assert [*reader.buttons, *(value for _, value in reader.values)] == list(page.targets)
    assert reader.values == [('na"me', "it's"), ('na"me', '28" x 28"')]
    assert 'id="search_input"' in show(Mode.HTML, ABOVE, start_page(), "u")
    results = _Reader()
    results.feed(show(Mode.HTML, ABOVE, results_page(1, 1, [product("B1")]), "u"))
    assert results.buttons == ["back to search", "next >", "b1"]
