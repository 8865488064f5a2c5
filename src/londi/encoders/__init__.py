"""phi(s): what the Switcher sees of a state."""

from londi.encoders.base import ENTROPY, MARGIN, Encoder, Features, Moment
from londi.encoders.table import STATE, TableEncoder
from londi.encoders.text import TextEncoder

__all__ = ["ENTROPY", "MARGIN", "STATE", "Encoder", "Features", "Moment", "TableEncoder", "TextEncoder"]
