"""Patches do what RFC 7386 and RFC 6902 say, and never let a document grow without bounds."""

from typing import Any

import orjson
import pytest

from nanovirt.resources.errors import Invalid, Malformed, TooLarge
from nanovirt.resources.patching import json_patch, merge, operations, strategic


@pytest.mark.parametrize(
    ("doc", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({"a": "foo"}, {"b": {"c": None}}, {"a": "foo", "b": {}}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
        ({"a": "x"}, {"a": {"b": 1}}, {"a": {"b": 1}}),
    ],
)
def test_merge_patch(doc: Any, patch: Any, result: Any) -> None:
    before = orjson.dumps(doc)
    assert merge(doc, patch) == result
    assert orjson.dumps(doc) == before, "the document itself is left alone"


def patched(doc: Any, *ops: Any) -> Any:
    return json_patch(doc, operations(orjson.dumps(ops)))


def test_json_patch_operations() -> None:
    doc = {"a": [1, 2], "b": {"c": 1}}
    result = patched(
        doc,
        {"op": "test", "path": "/a/0", "value": 1},
        {"op": "add", "path": "/a/-", "value": 3},
        {"op": "remove", "path": "/a/0"},
        {"op": "replace", "path": "/b/c", "value": 2},
        {"op": "copy", "from": "/b", "path": "/d"},
        {"op": "move", "from": "/b/c", "path": "/e~1f"},
    )
    assert result == {"a": [2, 3], "b": {}, "d": {"c": 2}, "e/f": 2}


@pytest.mark.parametrize(
    "op",
    [
        {"op": "test", "path": "/a", "value": 2},
        {"op": "remove", "path": "/gone"},
        {"op": "replace", "path": "/gone", "value": 1},
        {"op": "add", "path": "/a/b/c", "value": 1},
        {"op": "add", "path": "/list/9", "value": 1},
        {"op": "remove", "path": "/list/x"},
        {"op": "jump", "path": "/a"},
        {"op": "add", "path": "a", "value": 1},
        {"op": "add", "path": 5, "value": 1},
        {"op": "add", "path": "/a"},
        {"op": "move", "from": "/gone", "path": "/a"},
        {"path": "/a"},
    ],
)
def test_operation_that_does_not_fit_is_invalid_and_numbered(op: Any) -> None:
    with pytest.raises(Invalid, match=r"\[1\]"):
        patched({"a": 1, "list": [1]}, {"op": "add", "path": "/z", "value": 1}, op)


def test_failed_test_says_what_is_there_and_nothing_of_python() -> None:
    with pytest.raises(Invalid, match=r"the test of /a failed: 2 is not equal to tested value 3$"):
        json_patch({"a": 2}, [{"op": "test", "path": "/a", "value": 3}])


@pytest.mark.parametrize("body", [b"{}", b"[1]", b"[", b'"x"', b"[" * 40 + b"]" * 40])
def test_body_that_is_no_list_of_operations_is_malformed(body: bytes) -> None:
    with pytest.raises(Malformed):
        operations(body)


def test_whole_document_is_not_replaced() -> None:
    with pytest.raises(Malformed, match="whole object"):
        patched({"a": 1}, {"op": "replace", "path": "", "value": {}})
    with pytest.raises((Malformed, Invalid)):
        patched({"a": 1}, {"op": "remove", "path": ""})


def test_copies_that_double_the_document_end_early() -> None:
    grow = [{"op": "copy", "from": "/a", "path": f"/a/x{number}"} for number in range(40)]
    with pytest.raises(TooLarge):
        patched({"a": {"b": "x" * 1000}}, *grow)


def test_number_of_operations_is_limited() -> None:
    op = {"op": "test", "path": "/a", "value": 1}
    with pytest.raises(TooLarge, match="operations"):
        operations(orjson.dumps([op] * 1001))
    with pytest.raises(TooLarge, match="copies"):
        operations(orjson.dumps([{"op": "copy"}] * 65))


def test_patch_cannot_nest_deeper_than_a_body() -> None:
    deep: Any = 1
    for _ in range(25):
        deep = {"a": deep}
    with pytest.raises(Malformed, match="deeper"):
        patched(
            {"x": deep},
            {"op": "move", "from": "/x", "path": "/y"},
            {"op": "add", "path": "/y" + "/a" * 20, "value": deep},
        )


def test_strategic_patch_merges_the_lists_of_metadata_and_replaces_others() -> None:
    doc = {"metadata": {"finalizers": ["a"], "labels": {"x": "1", "y": "2"}}, "list": [1]}
    patch = {
        "$setElementOrder/list": [2],
        "metadata": {"finalizers": ["b"], "labels": {"x": None, "z": "3"}},
        "list": [2],
    }
    merged = strategic(doc, patch)
    assert merged == {"metadata": {"finalizers": ["a", "b"], "labels": {"y": "2", "z": "3"}}, "list": [2]}
    less = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "labels": {"$patch": "delete"}}}
    assert strategic(merged, less)["metadata"] == {"finalizers": ["b"]}


def test_strategic_patch_finds_owners_by_their_uid() -> None:
    doc = {"ownerReferences": [{"uid": "1", "name": "one"}, {"uid": "2", "name": "two"}]}
    patch = {"ownerReferences": [{"uid": "1", "$patch": "delete"}, {"uid": "2", "kind": "K"}, {"uid": "3"}]}
    assert strategic(doc, patch) == {"ownerReferences": [{"uid": "2", "name": "two", "kind": "K"}, {"uid": "3"}]}


def test_strategic_patch_may_replace_an_object_as_a_whole() -> None:
    assert strategic({"labels": {"a": "1"}}, {"labels": {"$patch": "replace", "b": "2"}}) == {"labels": {"b": "2"}}
