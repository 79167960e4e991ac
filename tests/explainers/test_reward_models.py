"""Models that give a conversation one value: words of its messages move, not the template's."""

import pytest
import torch
import transformers

from captum_sig import TextClassificationExplainer
from captum_sig.words.chat import render_chat
from tests.plain_loop import word_positions
from tests.tiny_language_models import chat_tokenizer
from tests.tiny_models import SlowTokenizer, bert, spread, wordpiece_tokenizer

CHAT = [
    {"role": "system", "content": "good"},
    {"role": "user", "content": "is the movie good? "},
    {"role": "assistant", "content": "a good movie, user."},
]
SHORT = [{"role": "user", "content": "good"}, {"role": "assistant", "content": "the movie"}]
END = "<|endoftext|>"
CHATML = (  # every message is closed, also the last
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'].strip() }}"
    "{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def chatml_tokenizer():
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = CHATML
    return tokenizer


@pytest.fixture(scope="module")
def explainer():
    tokenizer = chatml_tokenizer()
    tokenizer.pad_token = END
    config = transformers.LlamaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, intermediate_size=48, max_position_embeddings=400,
        num_labels=1, pad_token_id=tokenizer.pad_token_id, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = spread(transformers.LlamaForSequenceClassification(config))
    return TextClassificationExplainer(model, tokenizer, baseline="unk")


def rendered(tokenizer, chat):
    return tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=False)


def by_plain_loop(explainer, chat):
    """The value, and its differences without each word of the messages."""
    tokenizer, text = explainer.tokenizer, rendered(explainer.tokenizer, chat)
    ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    spans, start = [], 0
    for message in chat:
        start = text.index(f"{message['role']}\n", start) + len(message["role"]) + 1
        spans.append((start, start + len(message["content"].strip())))
        start = spans[-1][1]

    def value(embeddings):
        handle = explainer.layer.register_forward_hook(lambda *_: embeddings)
        with torch.no_grad():
            result = float(explainer.model(input_ids=ids).logits[0, 0])
        handle.remove()
        return result

    x = explainer.layer(ids).detach()
    base = explainer.layer(torch.tensor(tokenizer.unk_token_id)).detach()
    scores = []
    for word in word_positions(tokenizer, text, within=spans):
        moved = x.clone()
        moved[0, word] = base
        scores.append(value(x) - value(moved))
    return value(x), scores


def test_the_words_of_the_messages_are_a_plain_loop_over_ids(explainer):
    for chat, found in zip([CHAT, SHORT], explainer([CHAT, SHORT]), strict=True):
        value, scores = by_plain_loop(explainer, chat)
        assert found.value == pytest.approx(value, abs=1e-10)
        assert found.scores == pytest.approx(scores, abs=1e-10)
        assert found.text == rendered(explainer.tokenizer, chat)
        for word in found.words:
            assert found.text[word.start : word.end] == word.word
        assert found.unit == "value"
        assert explainer(chat).scores == pytest.approx(found.scores, abs=1e-10)
    assert [word.word for word in explainer(SHORT).words] == ["good", "the", "movie"]


def test_the_model_reads_what_transformers_renders(explainer):
    (batch,), _ = zip(*explainer.in_batches(CHAT), strict=True)
    expected = explainer.tokenizer.apply_chat_template(CHAT, return_dict=True)["input_ids"]
    assert batch.ids[0].tolist() == expected


def test_chats_texts_and_pairs_in_one_list(explainer):
    mixed = [SHORT, "good movie", ("good", "movie"), CHAT, rendered(explainer.tokenizer, SHORT)]
    for found, one in zip(explainer(mixed), mixed, strict=True):
        assert found.scores == pytest.approx(explainer(one).scores, abs=1e-10)


def test_other_methods_and_contexts(explainer):
    for method in ("ig", "sig:two_sided"):
        found = explainer([CHAT, SHORT], method=method, n_steps=10)
        assert found[1].scores == pytest.approx(
            explainer(SHORT, method=method, n_steps=10).scores, abs=1e-8
        )


@pytest.mark.parametrize("last", ["user", "assistant"])
def test_a_complete_chat_has_no_answer_to_come(last):
    tokenizer = chatml_tokenizer()
    chat = [{"role": "user", "content": "good"}, {"role": last, "content": " movie "}]
    text, contents = render_chat(tokenizer, chat, is_complete=True)
    assert text == rendered(tokenizer, chat)
    assert [text[start:end].strip() for start, end in contents] == ["good", "movie"]
    assert text.endswith("movie<|im_end|>\n")
    to_continue = render_chat(tokenizer, chat)[0]
    assert to_continue.endswith("movie" if last == "assistant" else "<|im_start|>assistant\n")


def test_special_tokens_of_the_template_are_not_added_again():
    tokenizer = wordpiece_tokenizer()
    tokenizer.chat_template = "[CLS]{% for m in messages %}{{ m['content'] }} [SEP]{% endfor %}"
    explainer = TextClassificationExplainer(bert(), tokenizer)
    chat = [{"role": "user", "content": "bad"}, {"role": "assistant", "content": "good movies"}]
    (batch,), ((found,),) = zip(*explainer.in_batches(chat), strict=True)
    assert batch.ids.tolist() == [[2, 10, 3, 9, 6, 17, 3]]
    assert [word.word for word in found.words] == ["bad", "good", "movies"]


@pytest.mark.parametrize(
    ("chat", "error", "message"),
    [
        ([{"role": "user"}], TypeError, "message 0 must be"),
        ([{"role": "user", "content": "a"}, "b"], TypeError, "message 1 must be"),
    ],
)
def test_bad_chats(explainer, chat, error, message):
    for chats in (chat, [chat]):
        with pytest.raises(error, match=message):
            explainer(chats)


def test_without_a_template_or_offsets():
    with pytest.raises(ValueError, match="the tokenizer has no chat template"):
        TextClassificationExplainer(bert(), wordpiece_tokenizer())(SHORT)
    slow = SlowTokenizer()
    slow.chat_template = "{% for m in messages %}{{ m['content'] }} {% endfor %}"
    with pytest.raises(ValueError, match="a slow tokenizer keeps no offsets"):
        TextClassificationExplainer(bert(), slow)(SHORT)
