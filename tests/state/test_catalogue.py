"""Masks over a version's items follow the catalogue and the items, whichever of them changes."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.random import Generator

from state import catalogue as module
from state.catalogue import Catalogue, CatalogueItem, Feature
from state.catalogue_listing import Listing
from state.items import ItemTable
from streaming import learners
from streaming.errors import UnknownIdError
from streaming.events import Ids


def entry(name: str, *categories: str, available: bool = True, **features: Feature) -> CatalogueItem:
    return CatalogueItem(name, available, categories, features)


def table(*names: str) -> ItemTable:
    learner = learners.load("popularity")
    items = ItemTable(learner.layout(learner.options()), 1)
    add(items, *names)
    return items


def add(items: ItemTable, *names: str) -> None:
    items.resolve(Ids.of([name.encode() for name in names]), np.ones(len(names), np.bool_))


def held(catalogue: Catalogue, *items: CatalogueItem) -> Catalogue:
    catalogue.update({item.item: item for item in items})
    return catalogue


def names_allowed(listing: Listing, items: ItemTable, category: str | None = None) -> set[str]:
    mask = listing.allowed(items, category)
    assert len(mask) == items.count
    return {items.ids.id_of(slot).decode() for slot in np.flatnonzero(mask).tolist()}


def test_item_is_read_back_as_it_was_put() -> None:
    tea = entry("tea é", "drinks", "warm", price=2.5, brand="ö")
    catalogue = held(Catalogue(), tea, entry("cup", available=False))
    assert catalogue.item("tea é") == tea
    assert catalogue.item("cup") == CatalogueItem("cup", False)
    assert catalogue.item("unknown") is None
    assert (len(catalogue), catalogue.categories()) == (2, {"drinks": 1, "warm": 1})


def test_only_available_items_of_the_category_are_allowed() -> None:
    catalogue = held(
        Catalogue(), entry("tea", "drinks"), entry("cup", "things"), entry("mate", "drinks", available=False)
    )
    items, listing = table("cup", "mate", "tea", "unlisted"), Listing(catalogue)
    assert names_allowed(listing, items) == {"tea", "cup"}
    assert names_allowed(listing, items, "drinks") == {"tea"}
    assert catalogue.allows(["mate", "tea", "unlisted"], "drinks").tolist() == [False, True, False]


def test_unlisted_items_are_allowed_where_that_is_asked_for() -> None:
    catalogue = Catalogue(serve_unlisted=True)
    items, listing = table("cup", "tea"), Listing(catalogue)
    assert names_allowed(listing, items) == {"cup", "tea"}
    held(catalogue, entry("cup", "things", available=False))
    assert names_allowed(listing, items) == {"tea"}
    assert names_allowed(listing, items, "things") == set()


def test_category_that_never_was_is_refused_with_the_nearest() -> None:
    catalogue = held(Catalogue(), entry("tea", "drinks"))
    with pytest.raises(UnknownIdError, match=r'"drink".*Did you mean "drinks"'):
        Listing(catalogue).allowed(table("tea"), "drink")


def test_replacing_all_lets_go_of_what_was_held() -> None:
    catalogue = held(Catalogue(), entry("tea", "drinks"), entry("cup"))
    items, listing = table("tea", "cup"), Listing(catalogue)
    assert names_allowed(listing, items) == {"tea", "cup"}
    catalogue.adopt(held(catalogue.blank(), entry("cup", "things")))
    assert names_allowed(listing, items) == {"cup"}
    assert names_allowed(listing, items, "drinks") == set()
    assert len(catalogue) == 1


def _change(random: Generator, catalogue: Catalogue, wanted: dict[str, CatalogueItem]) -> None:
    changes: dict[str, CatalogueItem | None] = {}
    for _ in range(int(random.integers(1, 9))):
        name = f"i{random.integers(60)}"
        kinds = [f"c{k}" for k in random.integers(0, 5, int(random.integers(0, 4)))]
        one = entry(name, *dict.fromkeys(kinds), available=bool(random.random() < 0.7), size=len(kinds))
        changes[name] = None if random.random() < 0.3 else one
    catalogue.update(changes)
    for name, item in changes.items():
        wanted.pop(name, None)
        if item is not None:
            wanted[name] = item


@pytest.mark.parametrize("log", [3, 65_536])
def test_masks_equal_those_worked_out_anew_when_both_sides_change(
    monkeypatch: pytest.MonkeyPatch, log: int
) -> None:
    monkeypatch.setattr(module, "_LOG", log)
    random = np.random.default_rng(log)
    catalogue, items, wanted = Catalogue(), table("i0"), dict[str, CatalogueItem]()
    held(catalogue, *(entry(f"i{k}", f"c{k}") for k in range(5)))
    wanted = {f"i{k}": entry(f"i{k}", f"c{k}") for k in range(5)}
    listing = Listing(catalogue)
    for step in range(300):
        _change(random, catalogue, wanted)
        add(items, f"i{random.integers(60)}")
        if step % 3 == 0 and items.count > 3:
            items.discard(int(random.integers(items.count)), step)
        known = {items.ids.id_of(slot).decode() for slot in range(items.count)}
        serve = {name for name, item in wanted.items() if item.available} & known
        assert names_allowed(listing, items) == serve
        category = f"c{step % 5}"
        in_it = {name for name in serve if category in wanted[name].categories}
        assert names_allowed(listing, items, category) == in_it
    assert len(catalogue) == len(wanted)
    assert all(catalogue.item(name) == item for name, item in wanted.items())
