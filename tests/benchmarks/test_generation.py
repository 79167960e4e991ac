"""The command that times language models measures each way to use a prefix."""

from tests.benchmarks import generation


def test_a_prefix_is_shared_copied_and_not_kept():
    found = {"gpt2-movies": generation.cache("gpt2-movies", [24], 2, 1, 8)}
    of_length = found["gpt2-movies"][24]
    assert of_length["words"] == 8
    assert 0 < of_length["shared"]["gap"] < 1e-4
    assert of_length["shared"]["gap"] != of_length["copies"]["gap"]
    (row,) = generation.tables_of({"cache": found})["cache"]
    assert (row["shape"], row["prompt_tokens"], row["words"]) == ("gpt2-movies", 24, 8)
    assert row["shared_ratio"] == of_length["shared"]["ratio"]
