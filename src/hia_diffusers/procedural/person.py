# Copyright 2026 The hia-diffusers authors
# SPDX-License-Identifier: Apache-2.0
"""Properties of procedural people: proportions, colours, clothes, hair and face."""

from dataclasses import dataclass

import numpy as np

from .motion import Proportions
from .shapes import Color, jittered, mix, rgb, shade


SKINS = ["#f6d3b8", "#eebf9b", "#dba47c", "#c78c62", "#a66f48", "#85553a", "#643d2a", "#f2c9b0"]
HAIRS = ["#221c1d", "#3b2820", "#5d3b25", "#8a5a32", "#c39a58", "#8f3f26", "#8e8a88", "#4b3c6b", "#2f4a57"]
CLOTHES = [
    *("#c8453b", "#e0823d", "#e8bf4a", "#5f9a53", "#2f8077", "#3f78b5", "#2c4272", "#6d4a8c", "#c9628f"),
    *("#f1ece0", "#2b2c33", "#8b8f96", "#a3724c", "#9ec6d8", "#d9a5a0", "#5d6b3f"),
]
TROUSERS = [
    *("#2c3b5c", "#4a6487", "#26272d", "#5f5a55", "#a88d67", "#6b4a3c", "#7d8794", "#e4dfd3", "#6c2f3d", "#3f5a46"),
    *("#3f78b5", "#b5443c", "#2f8077", "#c9628f"),
]
SHOES = ["#f2f0ea", "#2a2a2e", "#c23f38", "#3a5f94", "#8a5a38", "#e3bd45"]
EYES = ["#4a3020", "#2f2018", "#5b7d94", "#5c7a4c", "#6b5a34"]

HAIR_STYLES = ["short", "buzz", "side", "bob", "long", "ponytail", "bun", "afro", "curly", "bald", "cap", "beanie"]
TOPS = ["t-shirt", "long sleeves", "tank top", "hoodie"]
BOTTOMS = ["trousers", "wide trousers", "shorts", "skirt", "long skirt"]
PATTERNS = ["plain", "stripes", "pinstripes", "dots", "checks", "badge", "colour block", "zigzag"]


@dataclass
class Person:
    """One person. Colours are `(red, green, blue)` in `[0, 255]`, before the light of a scene.

    Args:
        proportions (`Proportions`):
            Lengths of the bones.
        girth (`float`):
            Factor near 1 on the width of trunk and limbs.
        skin (`tuple`):
            Colour of the skin.
        hair (`tuple`):
            Colour of the hair.
        hair_style (`str`):
            Hair style or hat, one of `HAIR_STYLES`.
        eyes (`tuple`):
            Colour of the irises.
        top (`str`):
            Top, one of `TOPS`.
        top_color (`tuple`):
            Colour of the top.
        pattern (`str`):
            Print on the top, one of `PATTERNS`.
        pattern_color (`tuple`):
            Colour of the print.
        bottom (`str`):
            Bottom, one of `BOTTOMS`.
        bottom_color (`tuple`):
            Colour of the bottom.
        shoes (`tuple`):
            Colour of the shoes.
        glasses (`bool`):
            Whether the person wears glasses.
        beard (`bool`):
            Whether the person has a beard.
        earrings (`bool`):
            Whether the person wears earrings.
        jaw (`float`):
            Shape of the jaw, from 0 (square) to 1 (narrow).
        lips (`tuple`):
            Colour of the lips.
        accent (`tuple`):
            Colour of hats, laces and trimmings.
    """

    proportions: Proportions
    girth: float
    skin: Color
    hair: Color
    hair_style: str
    eyes: Color
    top: str
    top_color: Color
    pattern: str
    pattern_color: Color
    bottom: str
    bottom_color: Color
    shoes: Color
    glasses: bool
    beard: bool
    earrings: bool
    jaw: float
    lips: Color
    accent: Color

    @classmethod
    def random(cls, rng: np.random.Generator) -> "Person":
        """Draw a random person."""
        child = rng.random() < 0.18
        stature = rng.uniform(0.74, 0.84) if child else rng.uniform(0.93, 1.04)
        head = rng.uniform(0.165, 0.178) if child else rng.uniform(0.158, 0.172)
        legs = rng.uniform(0.47, 0.53) * (0.96 if child else 1)
        proportions = Proportions(
            head_height=head,
            head_width=head * rng.uniform(0.70, 0.78),
            neck=0.018 * stature,
            shoulder=stature * rng.uniform(0.088, 0.112),
            spine=stature * (0.80 - legs),
            hip=stature * rng.uniform(0.044, 0.054),
            upper_arm=stature * rng.uniform(0.148, 0.164),
            forearm=stature * rng.uniform(0.130, 0.144),
            hand=0.5 * (stature + 1) * rng.uniform(0.122, 0.136),
            thigh=stature * 0.5 * (legs - 0.042) * 1.04,
            shin=stature * 0.5 * (legs - 0.042) * 0.98,
            foot=stature * rng.uniform(0.118, 0.13),
        )
        skin, hair = jittered(rng, SKINS, 5), jittered(rng, HAIRS, 8)
        bottom_style = str(rng.choice(BOTTOMS, p=[0.38, 0.14, 0.24, 0.16, 0.08]))
        top_color = jittered(rng, [code for code in CLOTHES if _difference(rgb(code), skin) > 110], 8)
        bottom_color = jittered(rng, [code for code in TROUSERS if _difference(rgb(code), skin) > 110], 8)
        if _difference(top_color, bottom_color) < 90:
            bottom_color = shade(bottom_color, 0.55) if sum(bottom_color) > 360 else shade(bottom_color, 1.5)
        contrast = [code for code in CLOTHES if _difference(rgb(code), top_color) > 150]
        return cls(
            proportions=proportions,
            girth=rng.uniform(0.88, 1.16),
            skin=skin,
            hair=hair,
            hair_style=str(rng.choice(HAIR_STYLES)),
            eyes=jittered(rng, EYES, 6),
            top=str(rng.choice(TOPS, p=[0.38, 0.3, 0.17, 0.15])),
            top_color=top_color,
            pattern=str(rng.choice(PATTERNS)),
            pattern_color=jittered(rng, contrast, 6),
            bottom=bottom_style,
            bottom_color=bottom_color,
            shoes=jittered(rng, SHOES, 6),
            glasses=bool(rng.random() < 0.22),
            beard=bool(not child and rng.random() < 0.16 and "skirt" not in bottom_style),
            earrings=bool(rng.random() < 0.25),
            jaw=rng.uniform(0.0, 1.0),
            lips=mix(skin, rgb("#b8383f"), rng.uniform(0.35, 0.75)),
            accent=jittered(rng, CLOTHES[:9], 6),
        )


def _difference(color: Color, other: Color) -> float:
    return float(np.abs(np.subtract(color, other)).sum())
