"""What homes look like: four kinds of rooms, their furniture, and which objects lie where. Tables only: no seed, no game.

The figures are statistics of the household scenes that ALFWorld plays in (AI2-THOR's 108 training rooms): how many
pieces of furniture of a type stand in a room, which share of rooms holds a type of object, how many of it there are, and
which furniture it prefers where all stand. They were estimated from the published games' starting positions and rounded.
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


@dataclass(frozen=True, slots=True)
class Stock:
    """One object type in a kind of room.

    `share` of the rooms hold it; such a room holds `mean` of it (1 to 3 as a rule) in each of its games. `places` weighs
    receptacle types (`FLOOR`: lying or hanging where no receptacle holds it); n receptacles of a type attract sqrt(n) times as
    much as one.
    """

    share: float
    mean: float
    places: Mapping[str, float]


FLOOR = "Floor"


def _stock(share: float, mean: float, places: str) -> Stock:
    words = places.split()
    return Stock(share, mean, {place: float(weight) for place, weight in zip(words[::2], words[1::2], strict=True)})


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

STOCK: Mapping[RoomKind, Mapping[str, Stock]] = {
    RoomKind.KITCHEN: {
        "Apple": _stock(1.0, 2.0, "DiningTable 22 Fridge 20 SideTable 17 CounterTop 13 Microwave 10 GarbageCan 10 SinkBasin 7"),
        "Blinds": _stock(0.19, 1, "Floor 100"),
        "Book": _stock(0.07, 1.5, "CounterTop 57 DiningTable 30 Cabinet 6 Shelf 4 Drawer 3"),
        "Bowl": _stock(
            1.0, 2.0, "DiningTable 31 Fridge 24 CounterTop 16 Cabinet 12 Shelf 5 SideTable 4 SinkBasin 4 Microwave 3"
        ),
        "Bread": _stock(1.0, 1.6, "DiningTable 55 CounterTop 29 Fridge 10 SideTable 5"),
        "ButterKnife": _stock(0.96, 1.9, "DiningTable 41 CounterTop 30 SideTable 19 SinkBasin 4 Drawer 3 Floor 2"),
        "CellPhone": _stock(0.11, 1.9, "DiningTable 51 CounterTop 33 Drawer 15"),
        "Chair": _stock(0.81, 1.5, "Floor 100"),
        "CreditCard": _stock(0.07, 2.1, "CounterTop 44 Shelf 25 Drawer 25 Floor 6"),
        "Cup": _stock(
            1.0, 2.0, "DiningTable 23 Fridge 19 SideTable 17 CounterTop 13 SinkBasin 9 Microwave 7 Cabinet 6 Shelf 6"
        ),
        "Curtains": _stock(0.07, 1, "Floor 100"),
        "DishSponge": _stock(
            1.0, 2.0, "DiningTable 26 CounterTop 21 Drawer 11 Shelf 9 SinkBasin 9 Cabinet 8 SideTable 7 GarbageCan 6"
        ),
        "Egg": _stock(1.0, 2.0, "Fridge 21 DiningTable 17 CounterTop 13 SideTable 13 SinkBasin 11 GarbageCan 11 Microwave 10"),
        "Fork": _stock(1.0, 2.0, "DiningTable 39 CounterTop 26 SideTable 15 Drawer 9 SinkBasin 8 Floor 4"),
        "Glassbottle": _stock(0.22, 2.0, "DiningTable 34 CounterTop 19 SinkBasin 11 Fridge 10 Cabinet 9 Shelf 8 GarbageCan 8"),
        "HousePlant": _stock(0.33, 1.1, "DiningTable 56 CounterTop 44"),
        "Kettle": _stock(0.48, 1.8, "StoveBurner 32 DiningTable 27 CounterTop 26 Cabinet 11 SinkBasin 3"),
        "Knife": _stock(1.0, 2.0, "DiningTable 44 CounterTop 30 Drawer 9 SideTable 8 Floor 5 SinkBasin 4"),
        "Ladle": _stock(0.37, 2.0, "DiningTable 42 CounterTop 33 Drawer 9 Cabinet 8 Floor 5 SinkBasin 3"),
        "Lettuce": _stock(1.0, 1.8, "DiningTable 46 CounterTop 20 Fridge 17 SideTable 12 SinkBasin 4 Floor 2"),
        "LightSwitch": _stock(1.0, 1, "Floor 100"),
        "Mirror": _stock(0.07, 1, "Floor 100"),
        "Mug": _stock(1.0, 2.0, "CoffeeMachine 19 DiningTable 16 Fridge 15 CounterTop 10 SideTable 10 Microwave 8 SinkBasin 7"),
        "Pan": _stock(1.0, 1.3, "CounterTop 43 StoveBurner 31 DiningTable 14 Fridge 8 Cabinet 4"),
        "PaperTowelRoll": _stock(0.33, 1, "DiningTable 37 CounterTop 26 Shelf 13 SideTable 12 GarbageCan 11"),
        "Pen": _stock(0.07, 2.0, "DiningTable 67 CounterTop 21 Drawer 8 GarbageCan 4"),
        "Pencil": _stock(0.07, 1.8, "DiningTable 43 CounterTop 26 Drawer 20 GarbageCan 10"),
        "PepperShaker": _stock(1.0, 2.1, "DiningTable 29 SideTable 23 CounterTop 21 Shelf 10 Cabinet 9 Drawer 7"),
        "Plate": _stock(1.0, 1.9, "DiningTable 33 CounterTop 23 Cabinet 13 Fridge 11 Floor 9 Shelf 5 SinkBasin 3"),
        "Pot": _stock(1.0, 1.6, "StoveBurner 57 CounterTop 17 DiningTable 13 Fridge 8 Shelf 2 Cabinet 2"),
        "Potato": _stock(1.0, 2.0, "DiningTable 24 Fridge 22 CounterTop 16 SideTable 12 SinkBasin 9 Microwave 9 GarbageCan 5"),
        "SaltShaker": _stock(1.0, 2.0, "DiningTable 31 SideTable 24 CounterTop 21 Cabinet 9 Shelf 9 Drawer 7"),
        "Sink": _stock(1.0, 1, "Floor 92 CounterTop 8"),
        "SoapBottle": _stock(1.0, 2.0, "DiningTable 35 CounterTop 20 SideTable 14 Shelf 10 GarbageCan 10 Cabinet 8 Floor 2"),
        "Spatula": _stock(1.0, 1.9, "DiningTable 45 CounterTop 30 Drawer 9 SinkBasin 8 SideTable 6 Floor 2"),
        "Spoon": _stock(1.0, 2.0, "DiningTable 35 CounterTop 22 SideTable 18 Drawer 11 SinkBasin 10 Floor 3"),
        "SprayBottle": _stock(0.07, 1.9, "DiningTable 47 CounterTop 26 GarbageCan 16 Cabinet 10"),
        "Statue": _stock(0.11, 1.8, "CounterTop 46 Shelf 36 DiningTable 18"),
        "StoveKnob": _stock(1.0, 4.1, "Floor 100"),
        "Tomato": _stock(1.0, 2.0, "DiningTable 29 Fridge 27 CounterTop 16 SideTable 15 GarbageCan 7 SinkBasin 5"),
        "Vase": _stock(0.11, 2.5, "CounterTop 36 Shelf 32 DiningTable 17 Cabinet 15"),
        "Window": _stock(0.89, 1.4, "Floor 96 CounterTop 4"),
        "WineBottle": _stock(0.37, 2.0, "DiningTable 44 CounterTop 30 GarbageCan 10 Cabinet 8 Shelf 6 Fridge 2"),
    },
    RoomKind.LIVING_ROOM: {
        "Book": _stock(0.26, 1.8, "Dresser 30 CoffeeTable 24 DiningTable 16 Sofa 13 ArmChair 7 SideTable 5 TVStand 4"),
        "Boots": _stock(0.19, 1, "Floor 100"),
        "Bowl": _stock(0.11, 1.8, "DiningTable 45 CoffeeTable 21 TVStand 20 SideTable 10 Shelf 4"),
        "Box": _stock(
            1.0, 1.4, "DiningTable 28 Desk 25 CoffeeTable 11 Sofa 10 Floor 7 Cabinet 5 Dresser 4 TVStand 3 SideTable 3"
        ),
        "Candle": _stock(0.11, 2.5, "SideTable 28 Dresser 24 CoffeeTable 15 DiningTable 13 TVStand 11 Drawer 10"),
        "CellPhone": _stock(
            0.22, 2.0, "Dresser 14 TVStand 13 Desk 12 Ottoman 12 CoffeeTable 12 DiningTable 11 Sofa 7 Shelf 7 SideTable 6"
        ),
        "Chair": _stock(0.7, 3.8, "Floor 100"),
        "CreditCard": _stock(
            1.0, 2.1, "DiningTable 12 Desk 12 TVStand 12 Dresser 11 Sofa 11 CoffeeTable 11 Ottoman 8 ArmChair 8 SideTable 6"
        ),
        "Curtains": _stock(0.3, 1.4, "Floor 92 SideTable 8"),
        "DeskLamp": _stock(0.22, 1, "SideTable 100"),
        "FloorLamp": _stock(1.0, 1, "Floor 100"),
        "HousePlant": _stock(1.0, 1.1, "Floor 31 SideTable 25 Dresser 17 CoffeeTable 14 TVStand 6 DiningTable 6"),
        "KeyChain": _stock(
            1.0, 2.0, "Desk 15 Floor 12 CoffeeTable 10 TVStand 10 Dresser 8 Safe 8 DiningTable 7 SideTable 7 Sofa 6"
        ),
        "Laptop": _stock(1.0, 1.4, "DiningTable 27 CoffeeTable 15 Sofa 14 Desk 12 Dresser 11 TVStand 8 Ottoman 6 SideTable 4"),
        "LightSwitch": _stock(1.0, 1, "Floor 100"),
        "Mirror": _stock(0.07, 1, "Floor 100"),
        "Newspaper": _stock(
            0.56, 1.9, "DiningTable 22 Dresser 17 CoffeeTable 13 Sofa 12 Ottoman 10 Shelf 9 SideTable 7 TVStand 6"
        ),
        "Painting": _stock(1.0, 1.9, "Floor 100"),
        "Pen": _stock(
            0.19, 2.0, "Dresser 29 CoffeeTable 25 SideTable 12 TVStand 11 Shelf 9 DiningTable 9 GarbageCan 3 Drawer 2"
        ),
        "Pencil": _stock(0.15, 2.1, "CoffeeTable 23 SideTable 20 Shelf 16 Dresser 14 TVStand 11 DiningTable 5 GarbageCan 5"),
        "Pillow": _stock(1.0, 1.1, "Sofa 79 ArmChair 19 Ottoman 3"),
        "Plate": _stock(0.37, 1.7, "DiningTable 51 CoffeeTable 14 Shelf 12 TVStand 11 SideTable 7 Dresser 5"),
        "RemoteControl": _stock(
            1.0, 2.1, "Desk 15 CoffeeTable 15 TVStand 13 Dresser 12 DiningTable 11 Sofa 10 Ottoman 6 SideTable 6"
        ),
        "Statue": _stock(0.96, 2.3, "DiningTable 26 CoffeeTable 17 TVStand 17 Shelf 11 Dresser 11 SideTable 10 Desk 8"),
        "Television": _stock(1.0, 1, "TVStand 64 Dresser 30 Floor 5"),
        "TissueBox": _stock(0.3, 2.1, "CoffeeTable 30 DiningTable 20 TVStand 18 Shelf 13 SideTable 9 Dresser 8"),
        "Vase": _stock(0.59, 2.8, "Dresser 25 Shelf 16 DiningTable 14 CoffeeTable 13 TVStand 11 Desk 8 SideTable 6 Floor 4"),
        "Watch": _stock(0.48, 2.1, "TVStand 20 Dresser 18 DiningTable 18 CoffeeTable 17 SideTable 11 Drawer 10 Shelf 6"),
        "WateringCan": _stock(0.44, 1.1, "Floor 61 Shelf 24 CoffeeTable 13"),
        "Window": _stock(0.96, 2.7, "Floor 100"),
    },
    RoomKind.BEDROOM: {
        "AlarmClock": _stock(1.0, 1.7, "DiningTable 31 CounterTop 25 Desk 15 Dresser 13 SideTable 10 Shelf 6"),
        "BaseballBat": _stock(0.41, 1.1, "Floor 100"),
        "BasketBall": _stock(0.37, 1, "Floor 100"),
        "Blinds": _stock(0.89, 1.6, "Floor 100"),
        "Book": _stock(
            1.0, 1.9, "Bed 30 Desk 17 DiningTable 13 CounterTop 13 Cabinet 8 Dresser 7 ArmChair 5 SideTable 3 Drawer 3"
        ),
        "Boots": _stock(0.11, 1, "Floor 100"),
        "Bowl": _stock(0.44, 1.6, "Desk 38 DiningTable 22 CounterTop 14 Shelf 13 Dresser 10 SideTable 2"),
        "Box": _stock(0.44, 1.0, "Floor 79 Desk 14 Shelf 7"),
        "CD": _stock(
            1.0, 2.1, "DiningTable 30 Dresser 16 Desk 13 SideTable 9 Floor 8 Drawer 7 ArmChair 5 Cabinet 4 GarbageCan 4"
        ),
        "CellPhone": _stock(1.0, 2.1, "CounterTop 16 DiningTable 15 Bed 14 Desk 12 Dresser 12 ArmChair 9 Safe 7 SideTable 7"),
        "Chair": _stock(0.78, 1.3, "Floor 100"),
        "Cloth": _stock(0.19, 1.8, "Floor 100"),
        "CreditCard": _stock(
            1.0, 2.0, "CounterTop 17 Dresser 17 DiningTable 14 Desk 13 SideTable 13 ArmChair 9 Shelf 8 Drawer 8"
        ),
        "Curtains": _stock(0.07, 1.6, "Floor 100"),
        "DeskLamp": _stock(0.67, 1.1, "SideTable 39 Dresser 29 Desk 27 Shelf 5"),
        "Footstool": _stock(0.04, 1, "Floor 100"),
        "HousePlant": _stock(0.26, 1, "Dresser 37 Shelf 29 Desk 26 Floor 8"),
        "KeyChain": _stock(
            1.0, 2.1, "DiningTable 18 Safe 16 Dresser 16 Desk 12 SideTable 11 ArmChair 8 Drawer 7 Shelf 6 Floor 3"
        ),
        "Laptop": _stock(1.0, 1.6, "Bed 44 CounterTop 21 Desk 16 DiningTable 11 Dresser 5 ArmChair 4"),
        "LaundryHamperLid": _stock(0.26, 1, "Floor 100"),
        "LightSwitch": _stock(1.0, 1, "Floor 100"),
        "Mirror": _stock(1.0, 1, "Floor 100"),
        "Mug": _stock(0.52, 1.9, "DiningTable 26 Desk 21 CounterTop 15 Dresser 12 SideTable 10 Shelf 7 Cabinet 6 Floor 2"),
        "Painting": _stock(0.44, 1.5, "Floor 100"),
        "Pen": _stock(1.0, 2.1, "DiningTable 28 CounterTop 23 Desk 16 Dresser 15 SideTable 9 Shelf 5 Drawer 4"),
        "Pencil": _stock(
            1.0, 2.0, "DiningTable 30 CounterTop 26 Desk 12 Dresser 11 SideTable 10 Shelf 6 Drawer 3 GarbageCan 2"
        ),
        "Pillow": _stock(1.0, 1.7, "Bed 98 ArmChair 2"),
        "Poster": _stock(0.22, 1.5, "Floor 100"),
        "RemoteControl": _stock(0.11, 2.0, "CounterTop 27 Desk 19 DiningTable 15 Drawer 10 Dresser 10 SideTable 8 Floor 6"),
        "Statue": _stock(0.15, 1.5, "Dresser 33 Desk 29 SideTable 18 Shelf 17 Floor 3"),
        "TeddyBear": _stock(0.33, 1, "Bed 74 Floor 26"),
        "Television": _stock(0.11, 1, "Dresser 95 Floor 5"),
        "TennisRacket": _stock(0.37, 1, "Floor 100"),
        "TissueBox": _stock(0.15, 1.9, "DiningTable 55 Desk 25 SideTable 7 Drawer 5 Shelf 5 Dresser 3"),
        "Vase": _stock(0.07, 2.2, "Desk 34 Dresser 33 Shelf 25 SideTable 8"),
        "Watch": _stock(0.07, 2.1, "Desk 27 DiningTable 26 Dresser 21 SideTable 10 Drawer 10 Shelf 5"),
        "Window": _stock(1.0, 1.5, "Floor 92 Dresser 4 Shelf 4"),
    },
    RoomKind.BATHROOM: {
        "Bathtub": _stock(0.74, 1, "Floor 94 BathtubBasin 6"),
        "Candle": _stock(
            1.0, 2.1, "CounterTop 18 Toilet 15 SideTable 13 Cart 12 Shelf 12 Dresser 11 Cabinet 8 Drawer 6 Floor 6"
        ),
        "Cloth": _stock(1.0, 2.0, "BathtubBasin 30 Cabinet 16 Dresser 12 Cart 12 CounterTop 10 Shelf 9 Drawer 6 SinkBasin 3"),
        "DishSponge": _stock(
            0.22, 2.2, "BathtubBasin 19 CounterTop 18 Cart 12 Shelf 11 Drawer 10 SinkBasin 8 Toilet 7 Cabinet 7"
        ),
        "FloorLamp": _stock(0.07, 2, "Floor 68 SinkBasin 32"),
        "Footstool": _stock(0.04, 1, "Floor 100"),
        "HandTowel": _stock(1.0, 1.2, "HandTowelHolder 100"),
        "HousePlant": _stock(0.04, 1, "SideTable 100"),
        "LightSwitch": _stock(1.0, 1, "Floor 100"),
        "Mirror": _stock(1.0, 1.0, "Floor 90 CounterTop 10"),
        "Painting": _stock(0.04, 1, "Floor 100"),
        "PaperTowelRoll": _stock(0.15, 1, "CounterTop 24 Toilet 19 Shelf 18 Cart 16 Floor 15 GarbageCan 8"),
        "Plunger": _stock(1.0, 1, "Floor 100"),
        "ScrubBrush": _stock(1.0, 1, "Floor 100"),
        "ShowerDoor": _stock(0.56, 1, "Floor 100"),
        "ShowerGlass": _stock(0.41, 1, "Floor 69 Shelf 31"),
        "Sink": _stock(1.0, 1.4, "Floor 85 SinkBasin 11 CounterTop 4"),
        "SoapBar": _stock(
            1.0, 2.1, "SideTable 15 CounterTop 14 Cart 13 BathtubBasin 11 Toilet 9 Shelf 8 Cabinet 8 SinkBasin 8 Drawer 6"
        ),
        "SoapBottle": _stock(1.0, 2.0, "Dresser 22 CounterTop 16 Shelf 16 Cabinet 13 Toilet 11 Cart 7 SideTable 5 Floor 5"),
        "SprayBottle": _stock(
            1.0, 2.0, "Cart 25 SideTable 15 CounterTop 14 Dresser 13 Toilet 11 Shelf 9 Cabinet 9 GarbageCan 4"
        ),
        "TissueBox": _stock(0.26, 1.9, "SideTable 38 Shelf 21 CounterTop 16 Cart 12 Cabinet 8 Drawer 4"),
        "ToiletPaper": _stock(
            1.0, 2.3, "Dresser 14 CounterTop 13 Toilet 12 Cart 11 Floor 10 Shelf 9 SideTable 8 Cabinet 7 ToiletPaperHanger 6"
        ),
        "Towel": _stock(1.0, 1.1, "TowelHolder 100"),
        "Window": _stock(0.67, 1.4, "Floor 100"),
    },
}

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
