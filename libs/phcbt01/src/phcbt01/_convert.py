"""A stream of another layout, written in ours."""

from __future__ import annotations

from typing import TYPE_CHECKING, BinaryIO

from phcbt01._streams import read_chunks, write_all
from phcbt01.decode import Decoder
from phcbt01.encode import Encoder
from phcbt01.model import Data, Event, Header, Region

if TYPE_CHECKING:
    from phcbt01._layout import Layout


def convert(stream: BinaryIO, out: BinaryIO, layout: Layout) -> Header:
    """Write `stream`, whose headers have this layout, to `out` in ours; return its header.

    Reads from where the stream stands to its end. Raises FormatError or OSError; what was written
    until then is not valid.
    """
    decoder = Decoder(layout)
    encoder = Encoder(0, 0)
    for chunk in read_chunks(stream):
        decoder.receive_data(chunk)
        for event in decoder.events():
            if isinstance(event, Header):
                encoder = Encoder(event.original_size, event.region_count)
                write_all(out, encoder.start())
            else:
                _write(event, encoder, out)
    return decoder.close()


def _write(event: Event, encoder: Encoder, out: BinaryIO) -> None:
    match event:
        case Region():
            write_all(out, encoder.region(event))
        case Data():
            write_all(out, encoder.data(event.view))
        case _:
            encoder.finish()
