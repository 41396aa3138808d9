"""A dead letter as it is shown: to an operator by a command, to a client by the server."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import msgspec

from eventrec.delivery.letters.dead_letters import letter_document
from eventrec.records.json import json_or_text

if TYPE_CHECKING:
    from eventrec.delivery.letters.kept import KeptLetter


def shown_letter(kept: KeptLetter) -> dict[str, Any]:
    """What a line of the file of dead letters holds, and where the letter is kept. What is not JSON is a text."""
    document = letter_document(kept.letter)
    texts = {name: json_or_text(bytes(value)) for name, value in document.items() if isinstance(value, msgspec.Raw)}
    return {"run": str(kept.run), "number": kept.number, **document, **texts}
