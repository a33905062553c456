"""What homes are furnished with, what furniture takes, and what can be done with things. Tables only: no seed, no game.

The figures are statistics of the household scenes that ALFWorld plays in (AI2-THOR's 108 training rooms), estimated from
the published games' starting positions and rounded. `stock.py` has the other half: which objects lie where.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class RoomKind(StrEnum):
    """The four kinds of rooms, in the order in which room seeds count them off."""

    KITCHEN = "kitchen"
    LIVING_ROOM = "living room"
    BEDROOM = "bedroom"
    BATHROOM = "bathroom"


@dataclass(frozen=True, slots=True)
class Furniture:
    """One receptacle type in a kind of room: the share of rooms that have it, and equally likely numbers of it there."""

    share: float
    counts: tuple[int, ...]


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FURNITURE: Mapping[RoomKind, Mapping[str, Furniture]] = {
    RoomKind.KITCHEN: {
        "Cabinet": Furniture(1.0, (2, 4, 4, 8, 9, 9, 10, 10, 11, 12, 13, 13, 15, 16, 18, 20, 20, 21, 23, 26)),
        "CoffeeMachine": Furniture(1.0, (1,)),
        "CounterTop": Furniture(1.0, (1, 2, 2, 2, 3, 3, 4)),
        "DiningTable": Furniture(0.56, (1, 1, 1, 1, 2, 3)),
        "Drawer": Furniture(0.96, (1, 2, 3, 3, 3, 4, 4, 5, 5, 6, 6, 7, 8, 9, 12, 13)),
        "Fridge": Furniture(1.0, (1,)),
        "GarbageCan": Furniture(1.0, (1,)),
        "Microwave": Furniture(1.0, (1,)),
        "Safe": Furniture(0.04, (1,)),
        "Shelf": Furniture(0.15, (2, 3, 3, 4)),
        "SideTable": Furniture(0.11, (1,)),
        "SinkBasin": Furniture(1.0, (1,)),
        "StoveBurner": Furniture(1.0, (4, 4, 4, 4, 4, 4, 4, 6)),
        "Toaster": Furniture(1.0, (1,)),
    },
    RoomKind.LIVING_ROOM: {
        "ArmChair": Furniture(0.93, (1, 1, 1, 2, 2, 3)),
        "Cabinet": Furniture(0.11, (1, 4, 8)),
        "CoffeeTable": Furniture(0.85, (1, 1, 1, 1, 2)),
        "Desk": Furniture(0.04, (1,)),
        "DiningTable": Furniture(0.52, (1, 1, 1, 1, 2)),
        "Drawer": Furniture(0.78, (1, 1, 1, 2, 4, 4, 4, 6, 7, 7, 8, 12)),
        "Dresser": Furniture(0.33, (1, 1, 1, 1, 2)),
        "GarbageCan": Furniture(1.0, (1,)),
        "Ottoman": Furniture(0.15, (1,)),
        "Safe": Furniture(0.04, (1,)),
        "Shelf": Furniture(0.37, (1, 2, 3, 4, 5, 6, 8, 8, 13)),
        "SideTable": Furniture(0.78, (1, 1, 1, 2, 2, 3, 3)),
        "Sofa": Furniture(1.0, (1, 1, 1, 1, 2)),
        "TVStand": Furniture(0.44, (1, 1, 1, 1, 1, 2)),
    },
    RoomKind.BEDROOM: {
        "ArmChair": Furniture(0.22, (1, 1, 1, 2, 3)),
        "Bed": Furniture(1.0, (1, 1, 1, 1, 1, 2)),
        "Cabinet": Furniture(0.15, (1, 2, 4, 4)),
        "CounterTop": Furniture(0.04, (1,)),
        "Desk": Furniture(0.67, (1, 1, 1, 1, 1, 1, 1, 2)),
        "DiningTable": Furniture(0.15, (1,)),
        "Drawer": Furniture(0.96, (2, 2, 2, 2, 3, 3, 4, 5, 5, 6, 8, 10, 11, 13, 16)),
        "Dresser": Furniture(0.48, (1, 1, 1, 1, 1, 2)),
        "GarbageCan": Furniture(1.0, (1,)),
        "LaundryHamper": Furniture(0.26, (1,)),
        "Safe": Furniture(0.15, (1,)),
        "Shelf": Furniture(0.67, (1, 1, 1, 2, 2, 5, 5, 6, 7, 8, 9, 12)),
        "SideTable": Furniture(0.67, (1, 1, 2)),
    },
    RoomKind.BATHROOM: {
        "BathtubBasin": Furniture(0.7, (1,)),
        "Cabinet": Furniture(0.48, (2, 3, 4, 4, 4, 4, 5, 9)),
        "Cart": Furniture(0.07, (1,)),
        "CounterTop": Furniture(0.85, (1, 1, 1, 1, 2)),
        "Drawer": Furniture(0.56, (1, 2, 2, 4, 4, 4, 6, 8, 8)),
        "Dresser": Furniture(0.07, (1,)),
        "GarbageCan": Furniture(1.0, (1,)),
        "HandTowelHolder": Furniture(1.0, (1, 1, 1, 2, 2)),
        "Shelf": Furniture(0.26, (1, 1, 2, 2, 3, 4)),
        "SideTable": Furniture(0.07, (1,)),
        "SinkBasin": Furniture(1.0, (1, 2)),
        "Toilet": Furniture(1.0, (1,)),
        "ToiletPaperHanger": Furniture(1.0, (1,)),
        "TowelHolder": Furniture(1.0, (1, 1, 1, 2)),
    },
}

# Doors and drawers that hide what is inside. Some cabinets and drawers of these homes have no working door: their
# content is simply seen. Two thirds of the rooms have none of those, the others a share of them.
ALWAYS_OPENABLE = frozenset({"Fridge", "Microwave"})
OFTEN_OPENABLE = frozenset({"Cabinet", "Drawer", "Safe"})
DOORLESS_ROOMS = 0.36
DOORLESS_SHARES = (0.1, 0.2, 0.2, 0.3, 0.3, 0.5, 1.0)

# Which objects a receptacle takes; a thing may start where it could not be put back (a plant, a teddy bear on the bed).
_TAKES = {
    "ArmChair": "Book Box CellPhone Cloth CreditCard KeyChain Laptop Newspaper Pillow RemoteControl",
    "BathtubBasin": "Cloth DishSponge HandTowel SoapBar",
    "Bed": "BaseballBat BasketBall Book CellPhone Laptop Pillow TennisRacket",
    "Cabinet": (
        "Book Bowl Box CD Candle Cloth Cup DishSponge Glassbottle HandTowel Kettle Ladle Mug Newspaper Pan "
        "PepperShaker Plate Plunger Pot SaltShaker SoapBar SoapBottle SprayBottle TissueBox ToiletPaper Vase "
        "WateringCan WineBottle"
    ),
    "Cart": "Candle Cloth DishSponge HandTowel Plunger SoapBar SoapBottle SprayBottle TissueBox ToiletPaper",
    "CoffeeMachine": "Mug",
    "CoffeeTable": (
        "Book Bowl Box Candle CellPhone CreditCard KeyChain Laptop Newspaper Pen Pencil Plate RemoteControl "
        "Statue TissueBox Vase Watch WateringCan"
    ),
    "CounterTop": (
        "AlarmClock Apple Book Bowl Bread ButterKnife CD Candle CellPhone Cloth CreditCard Cup DishSponge Egg "
        "Fork Glassbottle HandTowel Kettle KeyChain Knife Ladle Laptop Lettuce Mug Pan Pen Pencil "
        "PepperShaker Plate Pot Potato RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon SprayBottle "
        "Statue TissueBox ToiletPaper Tomato Vase WineBottle"
    ),
    "Desk": (
        "AlarmClock BasketBall Book Bowl Box CD CellPhone Cloth CreditCard KeyChain Laptop Mug Pen Pencil "
        "RemoteControl Statue TennisRacket TissueBox Vase Watch WateringCan"
    ),
    "DiningTable": (
        "AlarmClock Apple BaseballBat BasketBall Book Bowl Box Bread ButterKnife CD Candle CellPhone Cloth "
        "CreditCard Cup DishSponge Egg Fork Glassbottle Kettle KeyChain Knife Ladle Laptop Lettuce Mug "
        "Newspaper Pan Pen Pencil PepperShaker Plate Pot Potato RemoteControl SaltShaker SoapBottle Spatula "
        "Spoon SprayBottle Statue TennisRacket TissueBox Tomato Vase Watch WateringCan WineBottle"
    ),
    "Drawer": (
        "Book ButterKnife CD Candle CellPhone Cloth CreditCard DishSponge Fork HandTowel KeyChain Knife Ladle "
        "Newspaper Pen Pencil PepperShaker RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon "
        "SprayBottle TissueBox ToiletPaper Watch WateringCan"
    ),
    "Dresser": (
        "AlarmClock BasketBall Book Bowl Box CD Candle CellPhone Cloth CreditCard KeyChain Laptop Mug "
        "Newspaper Pen Pencil Plate RemoteControl SprayBottle Statue TennisRacket TissueBox ToiletPaper Vase "
        "Watch WateringCan"
    ),
    "Fridge": "Apple Bowl Bread Cup Egg Glassbottle Lettuce Mug Pan Plate Pot Potato Tomato WineBottle",
    "GarbageCan": (
        "Apple Bread CD Cloth DishSponge Egg HandTowel Lettuce Newspaper Pen Pencil Potato SoapBar SoapBottle "
        "SprayBottle TissueBox ToiletPaper Tomato WineBottle"
    ),
    "HandTowelHolder": "HandTowel",
    "LaundryHamper": "Cloth",
    "Microwave": "Apple Bowl Bread Cup Egg Glassbottle Mug Plate Potato Tomato",
    "Ottoman": "Book Box CellPhone CreditCard KeyChain Laptop Newspaper Pillow RemoteControl",
    "Safe": "CD CellPhone CreditCard KeyChain Statue Vase",
    "Shelf": (
        "AlarmClock Book Bowl Box CD Candle CellPhone Cloth CreditCard Cup DishSponge Glassbottle HandTowel "
        "Kettle KeyChain Mug Newspaper Pen Pencil PepperShaker Plate Pot RemoteControl SaltShaker SoapBar "
        "SoapBottle SprayBottle Statue TissueBox ToiletPaper Vase Watch WateringCan WineBottle"
    ),
    "SideTable": (
        "AlarmClock Apple BaseballBat BasketBall Book Bowl Box Bread ButterKnife CD Candle CellPhone Cloth "
        "CreditCard Cup DishSponge Egg Fork HandTowel Kettle KeyChain Knife Laptop Lettuce Mug Newspaper Pan "
        "Pen Pencil PepperShaker Plate Pot Potato RemoteControl SaltShaker SoapBar SoapBottle Spatula Spoon "
        "SprayBottle Statue TennisRacket TissueBox ToiletPaper Tomato Vase Watch WateringCan WineBottle"
    ),
    "SinkBasin": (
        "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Glassbottle HandTowel Kettle Knife Ladle "
        "Lettuce Mug Pan Plate Pot Potato SoapBar Spatula Spoon Tomato"
    ),
    "Sofa": "Book Box CellPhone CreditCard KeyChain Laptop Newspaper Pillow RemoteControl",
    "StoveBurner": "Kettle Pan Pot",
    "TVStand": "TissueBox",
    "Toilet": "Candle Cloth DishSponge HandTowel SoapBar SoapBottle SprayBottle TissueBox ToiletPaper",
    "ToiletPaperHanger": "ToiletPaper",
    "TowelHolder": "Towel",
}
CAN_CONTAIN: Mapping[str, frozenset[str]] = {receptacle: _words(objects) for receptacle, objects in _TAKES.items()}

# What can be done with an object, by its type. Everything that is not fixed can be picked up.
CLEANABLE = _words(
    "Apple Bowl ButterKnife Cloth Cup DishSponge Egg Fork Kettle Knife Ladle Lettuce Mug Pan Plate Pot Potato "
    "SoapBar Spatula Spoon Tomato"
)
HEATABLE = _words("Apple Bread Cup Egg Mug Plate Potato Tomato")
COOLABLE = _words("Apple Bowl Bread Cup Egg Lettuce Mug Pan Plate Pot Potato Tomato WineBottle")
SLICEABLE = _words("Apple Bread Egg Lettuce Potato Tomato")
TOGGLEABLE = _words("DeskLamp FloorLamp")
HOLDS_OTHERS = _words("Bowl Box Cup Mug Pan Plate Pot")
FIXED = _words(
    "Bathtub Blinds Chair Curtains DeskLamp FloorLamp HousePlant LaundryHamperLid LightSwitch Mirror Painting "
    "Poster ShowerDoor ShowerGlass Sink StoveKnob Television Window"
)
