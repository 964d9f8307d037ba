"""The ranking of hosts against a plain scan over all of them, whatever comes and goes meanwhile."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from nanovirt.controllers.indexes import Load
from nanovirt.controllers.scheduler import Ask, Ranking, Slot
from nanovirt.resources.compute_pool import ComputePoolSpec

GIB = 2**30
LAN = frozenset(["default"])


def slot(name: str, cpus: int = 8, memory: int = 16, **facts: object) -> Slot:
    known: dict[str, object] = {
        "pool": "default", "enabled": True, "ready": True, "storage": True, "architecture": "x86_64", "networks": LAN,
        "disk": 100 * GIB, "load": Load(),
    }  # fmt: skip
    return Slot(name=name, cpus=cpus, memory=memory * GIB, **{**known, **facts})  # type: ignore[arg-type]


def ask(cpus: int = 1, memory: int = 1, disk: int = 1, pinned: str = "") -> Ask:
    return Ask(cpus, memory * GIB, disk * GIB, LAN, "x86_64", pinned)


def spec(strategy: str = "Spread", cpu: int = 1) -> ComputePoolSpec:
    over = {"cpu": cpu, "memory": 1, "disk": 1}
    return ComputePoolSpec.model_validate({"strategy": strategy, "overcommit": over, "storagePool": "local"})


def take(ranking: Ranking, wanted: Ask) -> str:
    """Place it, and count it."""
    found = ranking.place(wanted)
    if found is None:
        return ""
    found.load.cpus += wanted.cpus
    found.load.memory += wanted.memory
    found.load.disk += wanted.disk
    ranking.moved(found.name)
    return found.name


def scanned(pool: ComputePoolSpec, slots: Iterable[Slot], wanted: Ask) -> str:
    """What a look at every host chooses."""
    sign, over = (1 if pool.strategy == "Spread" else -1), pool.overcommit
    fitting = [
        (sign * max(one.load.cpus * 10**6 // (one.cpus * over.cpu), one.load.memory * 10**6 // one.memory), one.name)
        for one in slots
        if one.enabled and one.ready and one.storage and wanted.pinned in ("", one.name)
        and one.load.cpus + wanted.cpus <= one.cpus * over.cpu
        and one.load.memory + wanted.memory <= one.memory * over.memory
        and one.load.disk + wanted.disk <= one.disk * over.disk
    ]  # fmt: skip
    return min(fitting, default=(0, ""))[1]


def test_lightest_host_is_taken_and_ties_go_to_the_first_name() -> None:
    ranking = Ranking(spec(), [slot("b"), slot("a"), slot("c", cpus=16, memory=32)])
    assert [take(ranking, ask()) for _ in range(4)] == ["a", "b", "c", "c"]


def test_fullest_host_is_taken_under_pack_until_it_is_full() -> None:
    ranking = Ranking(spec("Pack"), [slot("a", cpus=2), slot("b", cpus=2)])
    assert [take(ranking, ask()) for _ in range(5)] == ["a", "a", "b", "b", ""]


def test_host_that_takes_nothing_is_passed_by() -> None:
    closed = [slot("a", enabled=False), slot("b", ready=False), slot("c", storage=False)]
    strange = [slot("d", architecture="aarch64"), slot("e", networks=frozenset())]
    assert take(Ranking(spec(), [*closed, *strange, slot("z")]), ask()) == "z"
    assert take(Ranking(spec(), [*closed, *strange]), ask()) == ""


def test_pinned_instance_goes_to_its_host_or_nowhere() -> None:
    ranking = Ranking(spec(), [slot("a"), slot("b", cpus=1)])
    assert [take(ranking, ask(pinned=host)) for host in ("b", "b", "nobody", "a")] == ["b", "", "", "a"]


Step = tuple[str, int, int]
STEPS = st.lists(
    st.tuples(st.sampled_from(["place", "free", "pin"]), st.integers(0, 5), st.integers(1, 4)), max_size=60
)


@given(steps=STEPS, strategy=st.sampled_from(["Spread", "Pack"]), over=st.integers(1, 3))
def test_ranking_chooses_what_a_full_scan_chooses(steps: list[Step], strategy: str, over: int) -> None:
    pool = spec(strategy, over)
    slots = [slot(f"h{number}", cpus=2 + number % 3, memory=4 + number, ready=number != 4) for number in range(6)]
    ranking = Ranking(pool, slots)
    for what, which, amount in steps:
        load = slots[which].load
        if what == "free":
            load.cpus, load.memory = max(0, load.cpus - amount), max(0, load.memory - amount * GIB)
            ranking.moved(slots[which].name)
            continue
        wanted = ask(amount, amount, amount, slots[which].name if what == "pin" else "")
        expected = scanned(pool, slots, wanted)
        assert take(ranking, wanted) == expected
