"""Types of settings: what a value may be, and what an error says that it may be."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

_MOST = 10**9  # of whatever is counted: at a thousand a second that takes 12 days
Positive = Annotated[float, Meta(gt=0, le=_MOST, description="a number in (0, 1e9]")]
Timeout = Annotated[float, Meta(gt=0, le=10**6, description="a number in (0, 1e6]")]
TimeoutOrNone = Annotated[float, Meta(ge=0, le=10**6, description="a number in [0, 1e6]")]
NotNegative = Annotated[float, Meta(ge=0, le=_MOST, description="a number in [0, 1e9]")]
# Learning rates, and finite differences: what single precision can add to a number near 1.
Rate = Annotated[float, Meta(gt=0, le=1000, description="a number in (0, 1000]")]
Difference = Annotated[float, Meta(ge=1e-12, le=1e6, description="a number in [1e-12, 1e6]")]
Share = Annotated[float, Meta(ge=0, lt=1, description="a number in [0, 1)")]
PositiveShare = Annotated[float, Meta(gt=0, le=1, description="a number in (0, 1]")]
Probability = Annotated[float, Meta(gt=0, lt=1, description="a number in (0, 1)")]
Members = Annotated[int, Meta(ge=2, le=10**5, description="a whole number from 2 to 1e5")]
Pairs = Annotated[
    int, Meta(ge=2, le=10**5, multiple_of=2, description="an even number from 2 to 1e5")
]
Rates = Annotated[int, Meta(ge=1, le=15, description="a whole number from 1 to 15")]
Factor = Annotated[float, Meta(gt=1, le=100, description="a number in (1, 100]")]
Inflation = Annotated[float, Meta(ge=1, le=100, description="a number in [1, 100]")]
Count = Annotated[int, Meta(ge=1, le=_MOST, description="a whole number from 1 to 1e9")]
History = Annotated[int, Meta(ge=0, le=100, description="a whole number from 0 to 100")]
Whole = Annotated[int, Meta(ge=0, le=_MOST, description="a whole number from 0 to 1e9")]
Budget = Annotated[int, Meta(ge=1, le=10**15, description="a whole number from 1 to 1e15")]
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1, description="a whole number from 0 to 2^63 - 1")]
Text = Annotated[str, Meta(pattern=r"^[^\x00]*$", description="text without zero bytes")]
Files = Annotated[
    Text | tuple[Text, ...], Meta(description="a file, a pattern of names, or a list of these")
]
_SUCH_AS = 'such as "600 iterations" or "100 epochs"'
Length = Annotated[
    str,
    Meta(
        pattern=r"^0*[1-9][0-9]{0,8} (epoch|iteration)s?$",
        description=f"a length of at least 1 and less than 1e9, {_SUCH_AS}",
    ),
]
Size = Annotated[int, Meta(ge=1, le=10**4, description="a whole number from 1 to 1e4")]
Processes = Annotated[int, Meta(ge=0, le=1024, description="a whole number up to 1024")]
Pixels = Annotated[int, Meta(ge=0, le=1000, description="a whole number from 0 to 1000")]
LengthOrNone = Annotated[
    str, Meta(pattern=r"^[0-9]{1,9} (epoch|iteration)s?$", description=f"a length {_SUCH_AS}")
]
