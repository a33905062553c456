"""What help says of routers: which kinds there are and how they are written, those of other packages included."""

from __future__ import annotations

from typing import Any

from typer.core import TyperCommand


class RouterCommand(TyperCommand):
    """A command whose help explains what `--router` takes. Kinds are asked when help is shown: no other use needs them."""

    offline = True  # whether episodes are played here, so that a router can measure both variants before it decides

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        """The kinds of routers, then the examples."""
        from bitroute.routers.kinds import kinds  # noqa: PLC0415

        with formatter.section("Routers (--router)"):
            formatter.write_dl([(kind.form, kind.help) for kind in kinds() if self.offline or not kind.offline])
        super().format_epilog(ctx, formatter)


class ServingRouterCommand(RouterCommand):
    """The same where requests are served."""

    offline = False
