"""How the words of the captions are pronounced, in ARPABET as in the CMU dictionary; AX is the schwa (its AH0).

A digit behind a vowel is its stress: 1 is accented, 2 is full but not accented, 0 is weak. Function words have no 1.
"""

import re

from mmssl.errors import UserError

_LINES = """
a        AX0                    all      AO1 L                  an       AX0 N
and      AE0 N D                around   AX0 R AW1 N D          at       AE0 T
behind   B IH0 HH AY1 N D       big      B IH1 G                blue     B L UW1
bottom   B AA1 T AX0 M          can      K AE0 N                centre   S EH1 N T ER0
checks   CH EH1 K S             circle   S ER1 K AX0 L          clouds   K L AW1 D Z
colour   K AH1 L ER0            corner   K AO1 R N ER0          cross    K R AO1 S
do       D UW2                  dots     D AA1 T S              down     D AW1 N
else     EH1 L S                fading   F EY1 D IH0 NG         fine     F AY1 N
find     F AY1 N D
for      F ER0                  grain    G R EY1 N              green    G R IY1 N
ground   G R AW1 N D            heart    HH AA1 R T             here     HH IY1 R
home     HH OW1 M               huge     HH Y UW1 JH            i        AY2
in       IH0 N                  is       IH0 Z                  it       IH0 T
its      IH0 T S                large    L AA1 R JH             left     L EH1 F T
little   L IH1 T AX0 L          look     L UH1 K                medium   M IY1 D IY0 AX0 M
middle   M IH1 D AX0 L          moon     M UW1 N                my       M AY2
near     N IY2 R                no       N OW1                  not      N AA1 T
nothing  N AH1 TH IH0 NG        on       AA0 N                  one      W AH1 N
orange   AO1 R AX0 N JH         painted  P EY1 N T IH0 D        pink     P IH1 NG K
plain    P L EY1 N              please   P L IY1 Z              purple   P ER1 P AX0 L
red      R EH1 D                remember R IH0 M EH1 M B ER0    right    R AY1 T
ring     R IH1 NG               ripples  R IH1 P AX0 L Z        see      S IY1
shows    SH OW1 Z               side     S AY1 D                sits     S IH1 T S
sized    S AY1 Z D              small    S M AO1 L              somebody S AH1 M B AX0 D IY0
square   S K W EH1 R            star     S T AA1 R              stripes  S T R AY1 P S
that     DH AE2 T               the      DH AX0                 there    DH EH2 R
tiny     T AY1 N IY0            top      T AA1 P                triangle T R AY1 AE2 NG G AX0 L
turquoise T ER1 K W OY2 Z       up       AH1 P                  was      W AX0 Z
we       W IY0                  yellow   Y EH1 L OW0            yesterday Y EH1 S T ER0 D EY2
you      Y UW0
"""

PRONUNCIATIONS: dict[str, tuple[str, ...]] = {
    entry.split()[0]: tuple(entry.split()[1:])
    for line in _LINES.strip().splitlines()
    for entry in re.split(r"  +(?=[a-z])", line)
}
"""Phones by word; vowels with their stress."""


def pronounce(word: str) -> tuple[str, ...]:
    """The phones of a word. Raises UserError for one that the dictionary has not."""
    try:
        return PRONUNCIATIONS[word]
    except KeyError:
        raise UserError(
            f"the word '{word}' has no pronunciation: add it to data_prep/pronunciation.py, or speak with espeak-ng"
        ) from None
