"""XML as a tree of elements, text and attributes; every kind of declaration is refused.

It is parsed by expat, so that no entity can grow, and nothing outside of the document is read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from xml.parsers import expat

import attrs

from vm_config.errors import ConfigurationError
from vm_config.readers import text

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_DEPTH, _MAX_ELEMENTS = 40, 200_000


@attrs.define
class Element:
    """An element; tags and names of attributes are in lower case and without their prefix."""

    tag: str
    attributes: dict[str, str] = attrs.field(factory=dict)
    children: list[Element] = attrs.field(factory=list)
    pieces: list[str] = attrs.field(factory=list)

    @property
    def text(self) -> str:
        """What stands directly in the element, without blanks around it."""
        return "".join(self.pieces).strip()

    def all(self, *tags: str) -> list[Element]:
        """The children with one of these tags."""
        return [child for child in self.children if child.tag in tags]

    def at(self, *path: str) -> Element | None:
        """The first element at the end of a path of tags."""
        element: Element | None = self
        for tag in path:
            element = next((c for c in element.children if c.tag == tag), None) if element else None
        return element

    def get(self, *path: str) -> str:
        """The text at the end of a path, or the attribute of that name; else nothing."""
        if (found := self.at(*path)) is not None:
            return found.text
        holder = self.at(*path[:-1])
        return holder.attributes.get(path[-1], "").strip() if holder else ""

    def walk(self) -> Iterator[Element]:
        """All elements below, in the order of the document."""
        waiting = self.children[::-1]
        while waiting:
            element = waiting.pop()
            yield element
            waiting += element.children[::-1]

    def find(self, tag: str) -> str:
        """The text of the first element with this tag, at any depth."""
        return next((element.text for element in self.walk() if element.tag == tag), "")


def parse(content: bytes, what: str) -> Element:
    """The root element; raise ConfigurationError for what is not plain XML of elements and text."""
    top = Element("")
    open_elements = [top]
    count = 0

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal count
        count += 1 + len(attributes)
        if len(open_elements) > _MAX_DEPTH or count > _MAX_ELEMENTS:
            raise ConfigurationError(f"the {what} is too deeply nested or too long")
        named: dict[str, str] = {}
        for name, value in attributes.items():
            named.setdefault(_local(name), value)
        open_elements[-1].children.append(element := Element(_local(tag), named))
        open_elements.append(element)

    def end(_tag: str) -> None:
        open_elements.pop()

    def characters(data: str) -> None:
        open_elements[-1].pieces.append(data)

    def declaration(*_: object) -> int:
        raise ConfigurationError(f"the {what} declares a document type or an entity")

    parser = expat.ParserCreate("utf-8")  # whatever the document says that it was
    parser.buffer_text, parser.buffer_size = True, 65536
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = characters
    parser.StartDoctypeDeclHandler = parser.EntityDeclHandler = declaration
    parser.ExternalEntityRefHandler = declaration
    document = text.decode(content, what, _declared_encoding(content)).strip("\ufeff\0 \t\r\n")
    try:
        parser.Parse(document.encode("utf-8", "replace"), True)  # noqa: FBT003 - expat's "is final"
    except expat.ExpatError as error:
        raise ConfigurationError(f"the {what} is not XML: {error}") from error
    return top.children[0]


def _local(name: str) -> str:
    """A name without the prefix of its namespace."""
    return name.rpartition(":")[2].lower()


def _declared_encoding(content: bytes) -> str:
    """What the XML declaration says, for documents in neither UTF-8 nor UTF-16."""
    head = content[:200].partition(b"?>")[0]
    declared = head.partition(b"encoding=")[2][1:40]
    return text.codec(declared.partition(b'"')[0].partition(b"'")[0].decode("ascii", "replace"))
