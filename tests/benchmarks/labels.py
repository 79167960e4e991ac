"""How often the labels of words and pairs say what sentences with planted words are known to do.

    python -m tests.benchmarks.labels --models minilm-sst2 --record labels

What counts as a turn was chosen on the first 16 synonyms and 15 negations; the other sentences were
written afterwards, before their labels were known.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from captum_sig import TextClassificationExplainer
from captum_sig.demo_model import PATH as DEMO
from tests.benchmarks.record import add_record_option, show_and_record

SYNONYMS = [
    ("The film is brilliant and wonderful.", "brilliant", "wonderful"),
    ("A charming, delightful story about two brothers.", "charming", "delightful"),
    ("An awful, terrible waste of two hours.", "awful", "terrible"),
    ("The plot is dull and boring from start to end.", "dull", "boring"),
    ("It is a beautiful and moving portrait of a family.", "beautiful", "moving"),
    ("The jokes are stupid and the story is lame.", "stupid", "lame"),
    ("What a clever, engaging and quiet film.", "clever", "engaging"),
    ("A tedious and pointless sequel.", "tedious", "pointless"),
    ("The cast is superb and the music is excellent.", "superb", "excellent"),
    ("The dialogue is bland and the acting is flat.", "bland", "flat"),
    ("I found it funny and hilarious in every scene.", "funny", "hilarious"),
    ("The film was bad, and the ending was worse.", "bad", "worse"),
    ("An enjoyable, entertaining evening at the cinema.", "enjoyable", "entertaining"),
    ("The script is a mess and the direction is a failure.", "mess", "failure"),
    ("A powerful and gripping drama.", "powerful", "gripping"),
    ("The story is silly and the humour is annoying.", "silly", "annoying"),
    ("A smart, witty look at life in the city.", "smart", "witty"),
    ("A fresh and inventive thriller.", "fresh", "inventive"),
    ("It is a warm, touching film about old friends.", "warm", "touching"),
    ("The book is ugly and depressing.", "ugly", "depressing"),
    ("An exhausting and pretentious lecture.", "exhausting", "pretentious"),
    ("A sloppy, lifeless remake.", "sloppy", "lifeless"),
]
NEGATIONS = [
    ("The film is not good.", "not", "good"),
    ("The acting is never convincing.", "never", "convincing"),
    ("It is not a great movie.", "not", "great"),
    ("The jokes are not funny at all.", "not", "funny"),
    ("This is not a bad film.", "not", "bad"),
    ("The story is never boring.", "never", "boring"),
    ("The script is hardly clever.", "hardly", "clever"),
    ("There is nothing interesting in the plot.", "nothing", "interesting"),
    ("The second half is not dull.", "not", "dull"),
    ("The ending is not satisfying.", "not", "satisfying"),
    ("The film lacks charm.", "lacks", "charm"),
    ("It is a comedy without laughs.", "without", "laughs"),
    ("The result is not a disaster.", "not", "disaster"),
    ("Nobody could call it entertaining.", "Nobody", "entertaining"),
    ("The characters are not likable.", "not", "likable"),
    ("This is never a pleasant film.", "never", "pleasant"),
    ("The dialogue is not witty.", "not", "witty"),
    ("The young actors are not impressive.", "not", "impressive"),
    ("I did not like the ending.", "not", "like"),
    ("The remake is not terrible.", "not", "terrible"),
    ("The visuals are not ugly.", "not", "ugly"),
    ("The film is no masterpiece.", "no", "masterpiece"),
]

Planted = tuple[str, str, str]  # a text, and the two words that are known to act together


def labels(
    explainer: TextClassificationExplainer, sentences: Sequence[Planted]
) -> list[tuple[str, str, str]]:
    """Return (kind of the planted pair, agreement of its words) of each sentence."""
    texts = [text for text, *_ in sentences]
    found = []
    for result, (_, *planted) in zip(
        explainer(texts, method="sig:two_sided", interactions=max(map(len, texts))),
        sentences,
        strict=True,
    ):
        words = [word.word for word in result.words]
        at = tuple(sorted(map(words.index, planted)))
        (kind,) = (pair.kind for pair in result.interactions if pair.words == at)
        first, second = (result.words[words.index(word)].agreement for word in planted)
        found.append((kind, first, second))
    return found


def counts(explainer: TextClassificationExplainer) -> list[dict[str, Any]]:
    """Return how many labels are the expected ones, of how many."""
    same, negated = labels(explainer, SYNONYMS), labels(explainer, NEGATIONS)
    checks = {
        "synonyms say the same": [kind == "say the same" for kind, *_ in same],
        "synonyms are redundant": [label == "redundant" for _, *both in same for label in both],
        "negations turn it": [kind == "turns it" for kind, *_ in negated],
        "negations go unseen": [kind in ("say the same", "independent") for kind, *_ in negated],
        "negations are synergistic": [first == "synergistic" for _, first, _ in negated],
    }
    return [{"check": name, "right": sum(hits), "n": len(hits)} for name, hits in checks.items()]


def main(arguments: Sequence[str] | None = None) -> None:
    """Count on the demo model and on others."""
    options = argparse.ArgumentParser(
        prog="python -m tests.benchmarks.labels", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    options.add_argument("--models", type=Path, nargs="*", default=[], help="folders, to add")
    add_record_option(options)
    given = options.parse_args(arguments)
    rows = [
        {"model": "demo" if path == DEMO else path.name, **row}
        for path in (DEMO, *given.models)
        for row in counts(TextClassificationExplainer.from_pretrained(path))
    ]
    show_and_record(given, __spec__.name, {"counts": rows})


if __name__ == "__main__":
    main()
