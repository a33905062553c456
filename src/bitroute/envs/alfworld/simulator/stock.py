"""Which objects the four kinds of rooms hold, how many, and where. Tables only: no seed, no game.

Estimated from the published games' starting positions and rounded: the share of rooms that hold an object type at all, how
many of it lie there, and a choice model for its place, fitted over all rooms: of the receptacles that a room has, an object
picks a type in proportion to the type's weight times the square root of how many of it stand there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bitroute.envs.alfworld.simulator.rooms import RoomKind

FLOOR = "Floor"  # where no receptacle holds it: hanging, standing or lying in the room


@dataclass(frozen=True, slots=True)
class Stock:
    """One object type in a kind of room: `share` of the rooms hold it, each of their games `mean` of it (mostly 1 to 3).

    `places` gives the weights of receptacle types and of `FLOOR`.
    """

    share: float
    mean: float
    places: Mapping[str, float]


def _stock(share: float, mean: float, places: str) -> Stock:
    words = places.split()
    return Stock(share, mean, {place: float(weight) for place, weight in zip(words[::2], words[1::2], strict=True)})


STOCK: Mapping[RoomKind, Mapping[str, Stock]] = {
    RoomKind.KITCHEN: {
        "Apple": _stock(
            1.0, 2.0, "DiningTable 22 Fridge 20 SideTable 17 CounterTop 13 Microwave 10 GarbageCan 10 SinkBasin 7 Floor 1"
        ),
        "Blinds": _stock(0.19, 1, "Floor 100"),
        "Book": _stock(0.07, 1.5, "CounterTop 57 DiningTable 30 Cabinet 6 Shelf 4 Drawer 3"),
        "Bowl": _stock(
            1.0, 2.0, "DiningTable 31 Fridge 24 CounterTop 16 Cabinet 12 Shelf 5 SideTable 4 SinkBasin 4 Microwave 3 Floor 1"
        ),
        "Bread": _stock(1.0, 1.6, "DiningTable 55 CounterTop 29 Fridge 10 SideTable 5"),
        "ButterKnife": _stock(0.96, 1.9, "DiningTable 41 CounterTop 30 SideTable 19 SinkBasin 4 Drawer 3 Floor 2"),
        "CellPhone": _stock(0.11, 1.9, "DiningTable 51 CounterTop 33 Drawer 15 Floor 1"),
        "Chair": _stock(0.81, 1.5, "Floor 100"),
        "CreditCard": _stock(0.07, 2.1, "CounterTop 44 Shelf 25 Drawer 25 Floor 6"),
        "Cup": _stock(
            1.0, 2.0, "DiningTable 23 Fridge 19 SideTable 17 CounterTop 13 SinkBasin 9 Microwave 7 Cabinet 6 Shelf 6 Floor 2"
        ),
        "Curtains": _stock(0.07, 1, "Floor 100"),
        "DishSponge": _stock(
            1.0, 2.0, "DiningTable 26 CounterTop 21 Drawer 11 Shelf 9 SinkBasin 9 Cabinet 8 SideTable 7 GarbageCan 6 Floor 3"
        ),
        "Egg": _stock(
            1.0, 2.0, "Fridge 21 DiningTable 17 CounterTop 13 SideTable 13 SinkBasin 11 GarbageCan 11 Microwave 10 Floor 3"
        ),
        "Fork": _stock(1.0, 2.0, "DiningTable 39 CounterTop 26 SideTable 15 Drawer 9 SinkBasin 8 Floor 4"),
        "Glassbottle": _stock(
            0.22, 2.0, "DiningTable 34 CounterTop 19 SinkBasin 11 Fridge 10 Cabinet 9 Shelf 8 GarbageCan 8 Floor 1"
        ),
        "HousePlant": _stock(0.33, 1.1, "DiningTable 56 CounterTop 44"),
        "Kettle": _stock(0.48, 1.8, "StoveBurner 32 DiningTable 27 CounterTop 26 Cabinet 11 SinkBasin 3 Floor 1 Shelf 1"),
        "Knife": _stock(1.0, 2.0, "DiningTable 44 CounterTop 30 Drawer 9 SideTable 8 Floor 5 SinkBasin 4"),
        "Ladle": _stock(0.37, 2.0, "DiningTable 42 CounterTop 33 Drawer 9 Cabinet 8 Floor 5 SinkBasin 3"),
        "Lettuce": _stock(1.0, 1.8, "DiningTable 46 CounterTop 20 Fridge 17 SideTable 12 SinkBasin 4 Floor 2 GarbageCan 1"),
        "LightSwitch": _stock(1.0, 1, "Floor 100"),
        "Mirror": _stock(0.07, 1, "Floor 100"),
        "Mug": _stock(
            1.0,
            2.0,
            "CoffeeMachine 19 DiningTable 16 Fridge 15 CounterTop 10 SideTable 10 "
            "Microwave 8 SinkBasin 7 Floor 5 Cabinet 5 Shelf 5",
        ),
        "Pan": _stock(1.0, 1.3, "CounterTop 43 StoveBurner 31 DiningTable 14 Fridge 8 Cabinet 4"),
        "PaperTowelRoll": _stock(0.33, 1, "DiningTable 37 CounterTop 26 Shelf 13 SideTable 12 GarbageCan 11"),
        "Pen": _stock(0.07, 2.0, "DiningTable 67 CounterTop 21 Drawer 8 GarbageCan 4"),
        "Pencil": _stock(0.07, 1.8, "DiningTable 43 CounterTop 26 Drawer 20 GarbageCan 10"),
        "PepperShaker": _stock(1.0, 2.1, "DiningTable 29 SideTable 23 CounterTop 21 Shelf 10 Cabinet 9 Drawer 7"),
        "Plate": _stock(
            1.0, 1.9, "DiningTable 33 CounterTop 23 Cabinet 13 Fridge 11 Floor 9 Shelf 5 SinkBasin 3 SideTable 1 Microwave 1"
        ),
        "Pot": _stock(1.0, 1.6, "StoveBurner 57 CounterTop 17 DiningTable 13 Fridge 8 Shelf 2 Cabinet 2 SinkBasin 1"),
        "Potato": _stock(
            1.0, 2.0, "DiningTable 24 Fridge 22 CounterTop 16 SideTable 12 SinkBasin 9 Microwave 9 GarbageCan 5 Floor 2"
        ),
        "SaltShaker": _stock(1.0, 2.0, "DiningTable 31 SideTable 24 CounterTop 21 Cabinet 9 Shelf 9 Drawer 7"),
        "Sink": _stock(1.0, 1, "Floor 92 CounterTop 8"),
        "SoapBottle": _stock(
            1.0, 2.0, "DiningTable 35 CounterTop 20 SideTable 14 Shelf 10 GarbageCan 10 Cabinet 8 Floor 2 Drawer 1"
        ),
        "Spatula": _stock(1.0, 1.9, "DiningTable 45 CounterTop 30 Drawer 9 SinkBasin 8 SideTable 6 Floor 2"),
        "Spoon": _stock(1.0, 2.0, "DiningTable 35 CounterTop 22 SideTable 18 Drawer 11 SinkBasin 10 Floor 3"),
        "SprayBottle": _stock(0.07, 1.9, "DiningTable 47 CounterTop 26 GarbageCan 16 Cabinet 10 Toaster 1"),
        "Statue": _stock(0.11, 1.8, "CounterTop 46 Shelf 36 DiningTable 18"),
        "StoveKnob": _stock(1.0, 4.1, "Floor 100"),
        "Tomato": _stock(1.0, 2.0, "DiningTable 29 Fridge 27 CounterTop 16 SideTable 15 GarbageCan 7 SinkBasin 5 Floor 1"),
        "Vase": _stock(0.11, 2.5, "CounterTop 36 Shelf 32 DiningTable 17 Cabinet 15"),
        "Window": _stock(0.89, 1.4, "Floor 96 CounterTop 4"),
        "WineBottle": _stock(0.37, 2.0, "DiningTable 44 CounterTop 30 GarbageCan 10 Cabinet 8 Shelf 6 Fridge 2 SideTable 1"),
    },
    RoomKind.LIVING_ROOM: {
        "Book": _stock(0.26, 1.8, "Dresser 30 CoffeeTable 24 DiningTable 16 Sofa 13 ArmChair 7 SideTable 5 TVStand 4 Drawer 1"),
        "Boots": _stock(0.19, 1, "Floor 100"),
        "Bowl": _stock(0.11, 1.8, "DiningTable 45 CoffeeTable 21 TVStand 20 SideTable 10 Shelf 4"),
        "Box": _stock(
            1.0,
            1.4,
            "DiningTable 28 Desk 25 CoffeeTable 11 Sofa 10 Floor 7 Cabinet 5 "
            "Dresser 4 TVStand 3 SideTable 3 Ottoman 2 Shelf 2 ArmChair 1",
        ),
        "Candle": _stock(0.11, 2.5, "SideTable 28 Dresser 24 CoffeeTable 15 DiningTable 13 TVStand 11 Drawer 10"),
        "CellPhone": _stock(
            0.22,
            2.0,
            "Dresser 14 TVStand 13 Desk 12 Ottoman 12 CoffeeTable 12 DiningTable 11 "
            "Sofa 7 Shelf 7 SideTable 6 ArmChair 4 Drawer 3",
        ),
        "Chair": _stock(0.7, 3.8, "Floor 100"),
        "CreditCard": _stock(
            1.0,
            2.1,
            "DiningTable 12 Desk 12 TVStand 12 Dresser 11 Sofa 11 CoffeeTable 11 "
            "Ottoman 8 ArmChair 8 SideTable 6 Drawer 5 Shelf 4",
        ),
        "Curtains": _stock(0.3, 1.4, "Floor 92 SideTable 8"),
        "DeskLamp": _stock(0.22, 1, "SideTable 100"),
        "FloorLamp": _stock(1.0, 1, "Floor 100"),
        "HousePlant": _stock(1.0, 1.1, "Floor 31 SideTable 25 Dresser 17 CoffeeTable 14 TVStand 6 DiningTable 6"),
        "KeyChain": _stock(
            1.0,
            2.0,
            "Desk 15 Floor 12 CoffeeTable 10 TVStand 10 Dresser 8 Safe 8 DiningTable 7 "
            "SideTable 7 Sofa 6 Drawer 5 Ottoman 5 ArmChair 4 Shelf 2",
        ),
        "Laptop": _stock(
            1.0, 1.4, "DiningTable 27 CoffeeTable 15 Sofa 14 Desk 12 Dresser 11 TVStand 8 Ottoman 6 SideTable 4 ArmChair 3"
        ),
        "LightSwitch": _stock(1.0, 1, "Floor 100"),
        "Mirror": _stock(0.07, 1, "Floor 100"),
        "Newspaper": _stock(
            0.56,
            1.9,
            "DiningTable 22 Dresser 17 CoffeeTable 13 Sofa 12 Ottoman 10 Shelf 9 SideTable 7 TVStand 6 ArmChair 5 Drawer 1",
        ),
        "Painting": _stock(1.0, 1.9, "Floor 100"),
        "Pen": _stock(
            0.19, 2.0, "Dresser 29 CoffeeTable 25 SideTable 12 TVStand 11 Shelf 9 DiningTable 9 GarbageCan 3 Drawer 2"
        ),
        "Pencil": _stock(
            0.15, 2.1, "CoffeeTable 23 SideTable 20 Shelf 16 Dresser 14 TVStand 11 DiningTable 5 GarbageCan 5 Drawer 4 Floor 2"
        ),
        "Pillow": _stock(1.0, 1.1, "Sofa 79 ArmChair 19 Ottoman 3"),
        "Plate": _stock(0.37, 1.7, "DiningTable 51 CoffeeTable 14 Shelf 12 TVStand 11 SideTable 7 Dresser 5"),
        "RemoteControl": _stock(
            1.0,
            2.1,
            "Desk 15 CoffeeTable 15 TVStand 13 Dresser 12 DiningTable 11 Sofa 10 "
            "Ottoman 6 SideTable 6 ArmChair 4 Floor 4 Shelf 2 Drawer 1",
        ),
        "Statue": _stock(0.96, 2.3, "DiningTable 26 CoffeeTable 17 TVStand 17 Shelf 11 Dresser 11 SideTable 10 Desk 8 Floor 1"),
        "Television": _stock(1.0, 1, "TVStand 64 Dresser 30 Floor 5 CoffeeTable 1"),
        "TissueBox": _stock(
            0.3, 2.1, "CoffeeTable 30 DiningTable 20 TVStand 18 Shelf 13 SideTable 9 Dresser 8 Drawer 1 GarbageCan 1"
        ),
        "Vase": _stock(
            0.59, 2.8, "Dresser 25 Shelf 16 DiningTable 14 CoffeeTable 13 TVStand 11 Desk 8 SideTable 6 Floor 4 Cabinet 3"
        ),
        "Watch": _stock(0.48, 2.1, "TVStand 20 Dresser 18 DiningTable 18 CoffeeTable 17 SideTable 11 Drawer 10 Shelf 6"),
        "WateringCan": _stock(0.44, 1.1, "Floor 61 Shelf 24 CoffeeTable 13 SideTable 1"),
        "Window": _stock(0.96, 2.7, "Floor 100"),
    },
    RoomKind.BEDROOM: {
        "AlarmClock": _stock(1.0, 1.7, "DiningTable 31 CounterTop 25 Desk 15 Dresser 13 SideTable 10 Shelf 6"),
        "BaseballBat": _stock(0.41, 1.1, "Floor 100"),
        "BasketBall": _stock(0.37, 1, "Floor 100"),
        "Blinds": _stock(0.89, 1.6, "Floor 100"),
        "Book": _stock(
            1.0, 1.9, "Bed 30 Desk 17 DiningTable 13 CounterTop 13 Cabinet 8 Dresser 7 ArmChair 5 SideTable 3 Drawer 3 Shelf 1"
        ),
        "Boots": _stock(0.11, 1, "Floor 100"),
        "Bowl": _stock(0.44, 1.6, "Desk 38 DiningTable 22 CounterTop 14 Shelf 13 Dresser 10 SideTable 2"),
        "Box": _stock(0.44, 1.0, "Floor 79 Desk 14 Shelf 7"),
        "CD": _stock(
            1.0,
            2.1,
            "DiningTable 30 Dresser 16 Desk 13 SideTable 9 Floor 8 Drawer 7 ArmChair 5 Cabinet 4 GarbageCan 4 Shelf 3 Safe 2",
        ),
        "CellPhone": _stock(
            1.0, 2.1, "CounterTop 16 DiningTable 15 Bed 14 Desk 12 Dresser 12 ArmChair 9 Safe 7 SideTable 7 Drawer 4 Shelf 3"
        ),
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
            1.0, 2.1, "DiningTable 18 Safe 16 Dresser 16 Desk 12 SideTable 11 ArmChair 8 Drawer 7 Shelf 6 Floor 3 CounterTop 2"
        ),
        "Laptop": _stock(1.0, 1.6, "Bed 44 CounterTop 21 Desk 16 DiningTable 11 Dresser 5 ArmChair 4"),
        "LaundryHamperLid": _stock(0.26, 1, "Floor 100"),
        "LightSwitch": _stock(1.0, 1, "Floor 100"),
        "Mirror": _stock(1.0, 1, "CounterTop 98 Floor 1"),
        "Mug": _stock(0.52, 1.9, "DiningTable 26 Desk 21 CounterTop 15 Dresser 12 SideTable 10 Shelf 7 Cabinet 6 Floor 2"),
        "Painting": _stock(0.44, 1.5, "Floor 100"),
        "Pen": _stock(1.0, 2.1, "DiningTable 28 CounterTop 23 Desk 16 Dresser 15 SideTable 9 Shelf 5 Drawer 4 GarbageCan 1"),
        "Pencil": _stock(
            1.0, 2.0, "DiningTable 30 CounterTop 26 Desk 12 Dresser 11 SideTable 10 Shelf 6 Drawer 3 GarbageCan 2"
        ),
        "Pillow": _stock(1.0, 1.7, "Bed 98 ArmChair 2"),
        "Poster": _stock(0.22, 1.5, "Floor 100"),
        "RemoteControl": _stock(
            0.11, 2.0, "CounterTop 27 Desk 19 DiningTable 15 Drawer 10 Dresser 10 SideTable 8 Floor 6 ArmChair 4 Shelf 1"
        ),
        "Statue": _stock(0.15, 1.5, "Dresser 33 Desk 29 SideTable 18 Shelf 17 Floor 3"),
        "TeddyBear": _stock(0.33, 1, "Bed 74 Floor 26"),
        "Television": _stock(0.11, 1, "Dresser 99 Floor 1"),
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
        "Cloth": _stock(
            1.0, 2.0, "BathtubBasin 30 Cabinet 16 Dresser 12 Cart 12 CounterTop 10 Shelf 9 Drawer 6 SinkBasin 3 Toilet 2"
        ),
        "DishSponge": _stock(
            0.22,
            2.2,
            "BathtubBasin 19 CounterTop 18 Cart 12 Shelf 11 Drawer 10 SinkBasin 8 Toilet 7 Cabinet 7 Floor 5 GarbageCan 4",
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
            1.0,
            2.1,
            "SideTable 15 CounterTop 14 Cart 13 BathtubBasin 11 Toilet 9 Shelf 8 "
            "Cabinet 8 SinkBasin 8 Drawer 6 Floor 4 GarbageCan 4",
        ),
        "SoapBottle": _stock(
            1.0, 2.0, "Dresser 22 CounterTop 16 Shelf 16 Cabinet 13 Toilet 11 Cart 7 SideTable 5 Floor 5 GarbageCan 4 Drawer 1"
        ),
        "SprayBottle": _stock(
            1.0, 2.0, "Cart 25 SideTable 15 CounterTop 14 Dresser 13 Toilet 11 Shelf 9 Cabinet 9 GarbageCan 4"
        ),
        "TissueBox": _stock(0.26, 1.9, "SideTable 38 Shelf 21 CounterTop 16 Cart 12 Cabinet 8 Drawer 4 Toilet 1"),
        "ToiletPaper": _stock(
            1.0,
            2.3,
            "Dresser 14 CounterTop 13 Toilet 12 Cart 11 Floor 10 Shelf 9 "
            "SideTable 8 Cabinet 7 ToiletPaperHanger 6 Drawer 5 GarbageCan 5",
        ),
        "Towel": _stock(1.0, 1.1, "TowelHolder 100"),
        "Window": _stock(0.67, 1.4, "Floor 100"),
    },
}
