"""The items whose answer changed, for the HTML report: what they ask, their images and the answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from converters.errors import InputError
from images.thumbnail import data_uri, small_copy
from sweep import format as fmt
from sweep.analysis.item_answers import ChangedItem, ChangedItems, GivenAnswer, ItemImage

ITEMS = 30  # on a page
PIXELS = 480  # of the longer side of an image
IMAGES = 60  # on a page, so that its size is bounded: an image takes 5 to 40 kB


@dataclass(frozen=True)
class HtmlImage:
    """An image of an item as a data: URI, or why there is none."""

    uri: str
    missing: str


@dataclass(frozen=True)
class HtmlAnswer:
    """`kind` is a class of the stylesheet, `sign` marks a loss or a gain."""

    variant: str
    words: str
    value: str
    sign: str = ""
    kind: str = ""


@dataclass(frozen=True)
class HtmlItem:
    name: str
    text: str | None
    target: str | None
    images: Sequence[HtmlImage]
    answers: Sequence[HtmlAnswer]


@dataclass(frozen=True)
class HtmlItems:
    """A task's items. `title` says how many of them changed."""

    title: str
    shown: Sequence[HtmlItem]


def html_items(found: Sequence[ChangedItems]) -> list[HtmlItems]:
    """The items in the order of `found`, with their images up to a limit."""
    left = IMAGES
    groups = []
    for group in found:
        items = []
        for item in group.shown:
            images = [_image(image) for image in item.images[:left]]
            left -= len(images)
            items.append(_item(item, images))
        groups.append(HtmlItems(_title(group), items))
    return groups


def _title(group: ChangedItems) -> str:
    what = "1 item" if group.changed == 1 else f"{group.changed:,} items"
    shown = "" if len(group.shown) == group.changed else f", of which {len(group.shown)} are shown"
    return f"{group.task}: {what} with another answer than {group.reference}{shown}"


def _item(item: ChangedItem, images: Sequence[HtmlImage]) -> HtmlItem:
    answers = [HtmlAnswer(item.before.variant, item.before.words, f"{item.before.value:g}")]
    return HtmlItem(item.name, item.text, item.target, images, [*answers, *map(_answer, item.after)])


def _answer(answer: GivenAnswer) -> HtmlAnswer:
    sign, kind = verdict(answer.gain)
    return HtmlAnswer(answer.variant, answer.words, f"{answer.value:g}", sign, kind)


def verdict(gain: float) -> tuple[str, str]:
    """The sign for an answer that is scored otherwise than the reference's, and its class: loss, gain or none."""
    return (fmt.LOSS, "loss") if gain < 0 else (fmt.GAIN, "gain") if gain > 0 else ("", "")


def _image(image: ItemImage) -> HtmlImage:
    if image.file is None:
        return HtmlImage("", "The image is in the task's data set, not in a file of its own.")
    try:
        return HtmlImage(data_uri(small_copy(image.file, image.digest, PIXELS)), "")
    except InputError as error:
        return HtmlImage("", str(error))
