"""How benchmarks have their sides take turns."""

from __future__ import annotations

from benchmarks.measure import in_turns


def test_each_round_begins_with_the_side_that_came_last_in_the_one_before() -> None:
    heard = list[tuple[str, int]]()

    def side(name: str, at: int) -> int:
        heard.append((name, at))
        return len(heard)

    found = in_turns({"ours": lambda at: side("ours", at), "peer": lambda at: side("peer", at)}, 3)
    assert heard == [("ours", 0), ("peer", 0), ("peer", 1), ("ours", 1), ("ours", 2), ("peer", 2)]
    assert found == [{"ours": 1, "peer": 2}, {"ours": 4, "peer": 3}, {"ours": 5, "peer": 6}]
