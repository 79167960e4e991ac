"""The outline of a text: units within units."""

from captum_sig.words.grouping import Span
from captum_sig.words.inputs import TextInput
from captum_sig.words.outline import MAX_PHRASE, Part, outline
from captum_sig.words.units import TextUnit


def words_of(text: str, side: str | None = None) -> list[Span]:
    """The words between spaces."""
    found, start = [], 0
    for word in text.split():
        start = text.index(word, start)
        found.append(Span(len(found), word, start, start + len(word), side))  # type: ignore[arg-type]
        start += len(word)
    return found


def of(text: str, **fields: object) -> Part:
    return outline(TextInput(text, **fields), words_of(text))  # type: ignore[arg-type]


def shape(part: Part) -> object:
    """The levels of a part and its parts."""
    return part.level if not part.parts else (part.level, [shape(one) for one in part.parts])


def check(part: Part) -> None:
    """Parts are in order, and together what they are parts of."""
    if part.parts:
        assert len(part.parts) > 1
        assert part.parts[0].first == part.first
        assert part.parts[-1].stop == part.stop
        for one, following in zip(part.parts, part.parts[1:], strict=False):
            assert one.stop == following.first
    for one in part.parts:
        check(one)


def test_a_level_with_one_unit_is_left_out():
    assert shape(of("Good film.")) == ("text", ["word", "word"])
    assert shape(of("A film. Good one.")) == (
        "text",
        [("sentence", ["word", "word"]), ("sentence", ["word", "word"])],
    )
    one_sentence = ("paragraph", ["word", "word"])
    assert shape(of("A film.\n\nGood one.")) == ("text", [one_sentence, one_sentence])
    assert shape(of("Good")) == ("text", ["word"])


def test_long_sentences_are_cut_near_a_mark_or_in_the_middle():
    text = " ".join(["one"] * 7 + ["two,"] + ["three"] * 4)
    whole = of(text)
    assert [(part.level, part.first, part.stop) for part in whole.parts] == [
        ("phrase", 0, 8),
        ("phrase", 8, 12),
    ]
    even = of(" ".join(["word"] * (2 * MAX_PHRASE)))
    assert [part.n_words for part in even.parts] == [MAX_PHRASE, MAX_PHRASE]
    assert {part.level for part in even.parts[0].parts} == {"word"}


def test_parts_have_the_words_and_characters_of_the_text():
    text = "A b c. D e f g.\n\nH i? J k l m n o p q r s t u v w x, y z.\n\nAlone."
    whole = of(text)
    check(whole)
    for part in whole:
        assert text[part.start : part.end].split() == text.split()[part.first : part.stop]


def test_units_of_the_caller_stand_at_the_top_with_their_names():
    text = "An odd film. So it is.\n\nFine."
    units = (TextUnit(0, 22, "first"), TextUnit(24, 29))
    whole = of(text, units=units)
    assert [(part.level, part.name, part.n_words) for part in whole.parts] == [
        ("unit", "first", 6),
        ("word", None, 1),
    ]
    assert [part.level for part in whole.parts[0].parts] == ["sentence", "sentence"]
    (alone,) = of("A b", units=(TextUnit(0, 3, "all"),)).parts
    assert (alone.name, alone.level) == ("all", "unit")


def test_messages_and_the_texts_of_a_pair_stand_at_the_top():
    text = "user: Hi you. Go! bot: No."
    contents = [(6, 17), (23, 26)]
    words = [word for word in words_of(text) if any(a <= word.start < b for a, b in contents)]
    chat = outline(TextInput(text, contents=contents, roles=("user", "bot")), words)
    assert [(part.level, part.name) for part in chat.parts] == [
        ("message", "user"), ("message", "bot"),
    ]  # fmt: skip
    check(chat)
    pair = TextInput("One two.", "Three. Four five.")
    words = [*words_of(pair.text, "text"), *words_of(pair.pair or "", "text_pair")]
    sides = outline(pair, words)
    check(sides)
    assert [(part.side, part.first, part.stop) for part in sides.parts] == [
        ("text", 0, 2), ("text_pair", 2, 5),
    ]  # fmt: skip
    assert [part.level for part in sides.parts[1].parts] == ["word", "sentence"]
