"""The pictograms of PictoSafe and their groups.

Every pictogram and every group is named by one lower-case word, all of them distinct, so that a policy
names a concept by a single word. A pictogram stands free or in a context that a policy may speak of: hung in
a museum frame, or under a prohibition sign. It is identified across drawing styles by its Unicode code point.
``RESERVED_GROUP`` may be seen in training scenes but is never drawn in a benchmark scene: a policy that
forbids only it has nothing to find there.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final, Literal, get_args

__all__ = [
    "BENCHMARK_NAMES",
    "CONTEXTS",
    "GROUPS",
    "GROUP_NAMES",
    "GROUP_OF",
    "MEMBERS",
    "NAMES",
    "RESERVED_GROUP",
    "RESERVED_NAMES",
    "Context",
    "names_of",
]

_TABLE: Final = {
    "weapons": "pistol 1F52B  knife 1F52A  dagger 1F5E1  swords 2694  axe 1FA93  bow 1F3F9"
    "  boomerang 1FA83  trident 1F531",
    "explosives": "bomb 1F4A3  firecracker 1F9E8  explosion 1F4A5  fireworks 1F386  flame 1F525",
    "alcohol": "beer 1F37A  wine 1F377  champagne 1F37E  cocktail 1F378  daiquiri 1F379  sake 1F376"
    "  whisky 1F943",
    "tobacco": "cigarette 1F6AC  nosmoking 1F6AD",
    "medicine": "pill 1F48A  syringe 1F489  bandage 1FA79  stethoscope 1FA7A  thermometer 1F321"
    "  blood 1FA78  testtube 1F9EA  microscope 1F52C",
    "gambling": "slotmachine 1F3B0  dice 1F3B2  joker 1F0CF  hanafuda 1F3B4  mahjong 1F004"
    "  spade 2660  club 2663",
    "money": "banknote 1F4B5  moneybag 1F4B0  gem 1F48E  ring 1F48D  crown 1F451  creditcard 1F4B3"
    "  coin 1FA99",
    "affection": "heart 2764  kiss 1F48B  cupid 1F498  loveletter 1F48C  bouquet 1F490"
    "  heartbreak 1F494  rose 1F339  teddy 1F9F8",
    "death": "skull 1F480  coffin 26B0  urn 26B1  tombstone 1FAA6  ghost 1F47B  crossbones 2620  bone 1F9B4",
    "religion": "church 26EA  mosque 1F54C  synagogue 1F54D  kaaba 1F54B  temple 1F6D5  shrine 26E9"
    "  cross 271D  menorah 1F54E  rosary 1F4FF",
    "protest": "redflag 1F6A9  blackflag 1F3F4  megaphone 1F4E3  loudspeaker 1F4E2  placard 1FAA7"
    "  fist 270A  ballotbox 1F5F3",
    "swimwear": "bikini 1F459  swimsuit 1FA71  shorts 1FA73  briefs 1FA72  snorkel 1F93F  sandal 1FA74",
    "animals": "cat 1F408  dog 1F415  horse 1F40E  elephant 1F418  penguin 1F427  snake 1F40D"
    "  fish 1F41F  turtle 1F422  owl 1F989  butterfly 1F98B",
    "food": "pizza 1F355  burger 1F354  apple 1F34E  banana 1F34C  cake 1F382  cheese 1F9C0"
    "  icecream 1F366  taco 1F32E  carrot 1F955  grapes 1F347",
    "vehicles": "car 1F697  bus 1F68C  bicycle 1F6B2  train 1F682  airplane 2708  ship 1F6A2"
    "  tractor 1F69C  ambulance 1F691  helicopter 1F681  rocket 1F680",
    "tools": "hammer 1F528  wrench 1F527  screwdriver 1FA9B  saw 1FA9A  ladder 1FA9C  gear 2699"
    "  toolbox 1F9F0  magnet 1F9F2",
    "cameras": "camera 1F4F7  camcorder 1F4F9  projector 1F4FD  moviecamera 1F3A5  television 1F4FA"
    "  filmstrip 1F39E  clapperboard 1F3AC",
    "sports": "football 26BD  basketball 1F3C0  tennis 1F3BE  baseball 26BE  volleyball 1F3D0"
    "  boxing 1F94A  trophy 1F3C6  skis 1F3BF  skateboard 1F6F9",
    "instruments": "guitar 1F3B8  violin 1F3BB  trumpet 1F3BA  piano 1F3B9  drum 1F941  saxophone 1F3B7"
    "  accordion 1FA97  banjo 1FA95",
    "office": "pencil 270F  paperclip 1F4CE  scissors 2702  book 1F4D5  laptop 1F4BB"
    "  telephone 260E  envelope 2709  briefcase 1F4BC  calendar 1F4C5  printer 1F5A8",
    "nature": "tree 1F333  cactus 1F335  sunflower 1F33B  mushroom 1F344  rainbow 1F308"
    "  snowflake 2744  sun 2600  moon 1F319  palm 1F334  leaf 1F341",
    "hazards": "radioactive 2622  biohazard 2623  warning 26A0  voltage 26A1",
}


def _read(row: str) -> Mapping[str, str]:
    words = row.split()
    return MappingProxyType(dict(zip(words[::2], words[1::2], strict=True)))


GROUPS: Final[Mapping[str, Mapping[str, str]]] = MappingProxyType(
    {g: _read(row) for g, row in _TABLE.items()}
)
"""Group -> pictogram name -> Unicode code point in hexadecimal."""

GROUP_NAMES: Final[tuple[str, ...]] = tuple(GROUPS)
MEMBERS: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType({g: tuple(m) for g, m in GROUPS.items()})
NAMES: Final[tuple[str, ...]] = tuple(name for members in MEMBERS.values() for name in members)
"""Every pictogram, in a fixed order: sprite archives and models are indexed by it."""

GROUP_OF: Final[Mapping[str, str]] = MappingProxyType(
    {n: g for g, members in MEMBERS.items() for n in members}
)

RESERVED_GROUP: Final = "hazards"
RESERVED_NAMES: Final[tuple[str, ...]] = MEMBERS[RESERVED_GROUP]
BENCHMARK_NAMES: Final[tuple[str, ...]] = tuple(n for n in NAMES if GROUP_OF[n] != RESERVED_GROUP)


Context = Literal["framed", "prohibited"]
CONTEXTS: Final[tuple[Context, ...]] = get_args(Context)


def names_of(concept: str) -> tuple[str, ...]:
    """The pictograms that ``concept``, a name or a group, stands for. Raises KeyError for another word."""
    return (concept,) if concept in GROUP_OF else MEMBERS[concept]
