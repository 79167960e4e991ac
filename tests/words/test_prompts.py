"""The boundary of prompt and target, chats, and what is refused at the door."""

import numpy as np
import pandas as pd
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import GenerationConfig, PreTrainedTokenizerFast

from captum_sig import TextGenerationExplainer, baselines
from captum_sig.words.encoding import Encoder
from captum_sig.words.inputs import TextInput
from captum_sig.words.prompts import PromptEncoder
from tests import oracle
from tests.plain_loop import assert_equal, plain_loop, word_positions
from tests.tiny_language_models import causal, chat_tokenizer
from tests.tiny_models import (
    SlowTokenizer,
    byte_level_tokenizer,
    unsplit_tokenizer,
    wordpiece_tokenizer,
)


@pytest.fixture(scope="module")
def explain():
    return TextGenerationExplainer(causal("gpt2"), byte_level_tokenizer(), baseline="eos")


def test_a_target_that_starts_with_its_own_word_has_its_usual_tokens(explain, recwarn):
    result = explain("the good", " movie")
    assert [token.token for token in result.target_tokens] == [" movie"]
    assert not recwarn


@pytest.mark.parametrize(("prompt", "target", "pieces"),
                         [("a good mov", "ie", ["ie"]), ("a good ", "movie", list("mov") + ["ie"]),
                          ("a g", "ood", ["ood"])])  # fmt: skip
def test_tokens_that_would_merge_stay_apart(explain, prompt, target, pieces):
    with pytest.warns(UserWarning, match="merges the prompt's end and the target's") as caught:
        result = explain(prompt, target)
    assert prompt[-12:] + "|" + target in str(caught[0].message)
    assert [token.token for token in result.target_tokens] == pieces
    assert result.prompt == prompt
    assert result.target == target
    assert all(prompt[word.start : word.end] == word.word for word in result.words)
    words = word_positions(explain.tokenizer, prompt)
    if prompt.endswith(" "):
        words.append([words[-1][-1] + 1])  # the space is a token, and a word, of its own
    assert_equal(result.matrix, plain_loop(explain, result, words), 1e-10)


def test_sentencepiece_gets_no_space_that_is_not_there():
    tokenizer = unsplit_tokenizer()
    tokenizer.backend_tokenizer.decoder = decoders.Sequence(  # as Llama 2's
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    prompter = PromptEncoder(tokenizer, "word", one_text=True)
    prompt = prompter.prompt("the good", ())
    with pytest.warns(UserWarning, match="merges"):
        merged = prompter.target(prompter.prompt("the goo", ()), "d", 13)
    assert tokenizer.convert_ids_to_tokens(merged) == ["d"]
    assert tokenizer.convert_ids_to_tokens(prompter.target(prompt, " good", 13)) == ["▁good"]
    assert tokenizer.convert_ids_to_tokens(prompter.target(prompt, "s", 13)) == ["s"]


def test_a_tokenizer_that_forgets_case_and_spaces_takes_the_targets_own_tokens():
    tokenizer = wordpiece_tokenizer()
    prompter = PromptEncoder(tokenizer, "word", one_text=True)
    prompt = prompter.prompt("the movie is", ())
    with pytest.warns(UserWarning, match="merges"):
        apart = prompter.target(prompt, "Bad", 64)
    assert apart == prompter.target(prompt, " Bad", 64) == [tokenizer.vocab["bad"]]


CHAT = [
    {"role": "system", "content": "be good "},
    {"role": "user", "content": "user"},
    {"role": "assistant", "content": "a movie"},
    {"role": "user", "content": "is the movie good"},
]


@pytest.mark.parametrize("level", ["word", "token"])
def test_a_chats_words_are_those_of_its_messages(level):
    tokenizer = chat_tokenizer()
    explain = TextGenerationExplainer(causal("llama"), tokenizer, baseline="eos", level=level)
    result = explain(CHAT, " good")
    assert result.prompt == tokenizer.apply_chat_template(
        CHAT, tokenize=False, add_generation_prompt=True
    )
    spelt = [word.word for word in result.words]
    if level == "word":
        assert spelt == ["be", "good", "user", "a", "movie", "is", "the", "movie", "good"]
    assert "".join(spelt).replace(" ", "") == "".join(m["content"] for m in CHAT).replace(" ", "")
    assert all(result.prompt[w.start : w.end] == w.word for w in result.words)
    user = next(w for w in result.words if w.word[0] == "u")
    assert result.prompt[: user.start].endswith("<|im_start|>user\n")
    within = []
    for message in CHAT:
        content = message["content"].strip()  # as the template has it
        start = result.prompt.index(f"{message['role']}\n{content}") + len(message["role"]) + 1
        within.append((start, start + len(content)))
    words = word_positions(tokenizer, result.prompt, level, within)
    assert_equal(result.matrix, plain_loop(explain, result, words, plain=True), 1e-5)


def test_a_chat_beside_a_text_and_one_that_is_to_go_on():
    explain = TextGenerationExplainer(causal("gpt2"), chat_tokenizer(), baseline="eos")
    open_ended = [{"role": "user", "content": "good"}, {"role": "assistant", "content": "a mov"}]
    first, second = explain([open_ended, "a movie"], " good")
    assert first.prompt.endswith("<|im_start|>assistant\na mov")
    assert [w.word for w in first.words] == ["good", "a", "mov"]
    assert second.prompt == "a movie"


def with_template(template: str | None):
    tokenizer = chat_tokenizer()
    tokenizer.chat_template = template
    return tokenizer


SHOUTED = "{% for m in messages %}{{ m['content'] | upper }}{% endfor %}"
FORGETFUL = "{{ messages[-1]['content'] }}"


def bad_input():
    gpt2, chat = byte_level_tokenizer(), chat_tokenizer()
    hi = [{"role": "user", "content": "hi"}]
    return [
        (gpt2, ("", " a"), {}, ValueError, "the prompt is empty: pass text"),
        (gpt2, ("<|endoftext|>", " a"), {}, ValueError, "has no word left to explain"),
        (gpt2, ("a", ""), {}, ValueError, "the target is empty: pass at least one token"),
        (gpt2, ("a", []), {}, ValueError, "the target has no token"),
        (gpt2, ("a", [5, 300]), {}, ValueError, "target id 300 is not among the model's 0 … 299"),
        (gpt2, ("a", [0.5]), {}, TypeError, "target must be text or a sequence of ids"),
        (gpt2, ("a", b"x"), {}, TypeError, "target must be text or a sequence of ids"),
        (gpt2, ("a", [True]), {}, TypeError, "target must be text or a sequence of ids"),
        (gpt2, ("a", " b"), {"skip_tokens": "a"}, TypeError, "must be a list of ids or tokens"),
        (gpt2, ("a", " b"), {"skip_tokens": 7}, TypeError, "must be a list of ids or tokens"),
        (gpt2, ("a", " b"), {"skip_tokens": [999]}, ValueError, "999, which is not a token"),
        (gpt2, ("a", " b", {"max_new_tokens": 3}), {}, ValueError,
         "generation_kwargs are for prompts without a target"),
        (gpt2, ("a", 7), {}, TypeError, "target must be text or a sequence of ids, got 7"),
        (gpt2, ("a", " b"), {"contrast": ""}, ValueError, "the contrast is empty"),
        (gpt2, (7, " a"), {}, TypeError, "prompt must be text, the messages of a chat, or a list"),
        (gpt2, (["a", 7], " a"), {}, TypeError, "or a list of such, got 7 in a list"),
        (gpt2, (("a", "b"), " a"), {}, TypeError, "got tuple, which is kept for the two texts of"),
        (gpt2, (["a", ("b", "c")], " a"), {}, TypeError, "got ('b', 'c') in a list"),
        (chat, (hi[0], " a"), {}, TypeError, "got dict: pass a list for several"),
        (gpt2, ({"a"}, " a"), {}, TypeError, "got set: pass a list for several"),
        (gpt2, (b"a", " a"), {}, TypeError, "got bytes: pass a list for several"),
        (gpt2, (None, " a"), {}, TypeError, "got NoneType: pass a list for several"),
        (gpt2, (map(str, "ab"), " a"), {}, TypeError, "got map: pass a list for several"),
        (gpt2, ("a", torch.tensor([70.0])), {}, TypeError, "must be text or a sequence of ids"),
        (gpt2, ("a", " b"), {"skip_tokens": [1.5]}, ValueError, "skip_tokens must be an integer"),
        (gpt2, ("a", " b"), {"use_cache": "no"}, ValueError, "use_cache must be True or False"),
        (gpt2, ("a", " b"), {"internal_batch_size": 1.5}, ValueError, "must be an integer of at"),
        (gpt2, (["a", "b"], ["x"]), {}, ValueError, "target has 1 entries; wanted one, or 2"),
        (gpt2, ("a", "\ud800"), {}, ValueError, "not valid Unicode"),
        (gpt2, ("a" * 129, " b"), {}, ValueError,
         "prompt with its target has 130 tokens, beyond the model's context of 128: shorten it"),
        (gpt2, ("a" * 129,), {}, ValueError, "the prompt has 129 tokens"),
        (gpt2, ("a", " b"), {"skip_tokens": ["zzz"]}, ValueError, "'zzz', which is not a token"),
        (gpt2, ("a", " b"), {"skip_tokens": ["a"]}, ValueError, "has no word left to explain"),
        (gpt2, ("a", " b"), {"contrast": " c", "attribute_target": True}, ValueError,
         "leave attribute_target or contrast out"),
        (gpt2, ("a", " b"), {"n_steps": 0, "attributions": True}, ValueError, "n_steps"),
        (gpt2, ("a", " b"), {"tolerance": -1.0, "attributions": True}, ValueError,
         "tolerance must be a positive"),
        (gpt2, ("a", " b"), {"tolerance": 0.1}, ValueError, "they are for attributions=True"),
        (gpt2, ("a", " b"), {"n_steps": 50}, ValueError, "they are for attributions=True"),
        (gpt2, ("a", " b"), {"internal_batch_size": 0}, ValueError, "of at least 1, got 0"),
        (gpt2, ("a", None, {"num_return_sequences": 2, "num_beams": 2}), {}, ValueError,
         "generation_kwargs produce 2 texts"),
        (gpt2, (hi, " a"), {}, ValueError, "no chat template: set tokenizer.chat_template"),
        (chat, ([{"role": "user"}], " a"), {}, TypeError, 'message 0 must be {"role"'),
        (with_template(SHOUTED), (hi, " a"), {}, ValueError, "changes the messages"),
        (with_template(FORGETFUL), (hi * 2, " a"), {}, ValueError, "changes the messages"),
        (chat, ([[]], " a"), {}, ValueError, "the chat has no message"),
        (with_template("{{ raise_exception('no, never') }}"), (hi, " a"), {}, ValueError,
         "the chat template refuses the messages: no, never"),
    ]  # fmt: skip


@pytest.mark.parametrize(("tokenizer", "arguments", "options", "error", "message"), bad_input())
def test_bad_input_is_named_in_one_sentence(tokenizer, arguments, options, error, message):
    explain = TextGenerationExplainer(causal("gpt2"), tokenizer, baseline="eos")
    with pytest.raises(error) as caught:
        explain(*arguments, **options)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_slow_tokenizer_has_words_but_no_chats():
    tokenizer = SlowTokenizer()
    explain = TextGenerationExplainer(causal("gpt2"), tokenizer)
    result = explain("the movie is", " bad")
    assert [w.word for w in result.words] == ["the", "movie", "is"]
    assert_equal(result.matrix, plain_loop(explain, result, [[1], [2, 3], [4]], baseline=4), 1e-10)
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    with pytest.raises(ValueError, match="use a fast tokenizer"):
        explain([{"role": "user", "content": "the movie"}], "bad")


@pytest.mark.parametrize(
    ("roles", "name"),
    [(("mask", "pad", "unk", "eos"), "mask"), (("pad", "unk", "eos"), "pad"),
     (("unk", "eos"), "unk"), (("eos",), "eos"), ((), "mean")],
)  # fmt: skip
def test_what_stands_in_for_the_mask(roles, name, recwarn):
    tokenizer = wordpiece_tokenizer()
    for role in {"mask", "pad", "unk", "eos"} - set(roles):
        setattr(tokenizer, f"{role}_token", None)
    if "eos" in roles:
        tokenizer.eos_token = "[SEP]"
    explain = TextGenerationExplainer(causal("gpt2"), tokenizer)
    for _ in range(2):
        assert explain("a bad movie", " good").baseline == name
    warned = [str(w.message) for w in recwarn if "baseline" in str(w.message)
              or "mean embedding" in str(w.message)]  # fmt: skip
    assert len(warned) == (0 if name == "mask" else 1)


@pytest.mark.parametrize(("baseline", "message"), [
    ("uniform", "not for generation: use one of mask, pad, unk, eos, zero, mean, max_distance"),
    ("blurred", "not for generation"), ("pad", "has no pad token"), ("zeros", "is unknown"),
])  # fmt: skip
def test_baselines_that_are_not_there(baseline, message):
    with pytest.raises(ValueError, match=message):
        TextGenerationExplainer(causal("gpt2"), byte_level_tokenizer(), baseline=baseline)


@pytest.mark.parametrize("name", ["zero", "mean", "max_distance"])
def test_baselines_from_the_embedding(name):
    tokenizer, model = byte_level_tokenizer(), causal("gpt2")
    explain = TextGenerationExplainer(model, tokenizer, baseline=name)
    result = explain("a good movie", " so good")
    embedding = model.get_input_embeddings()
    ids = torch.tensor([tokenizer("a good movie so good")["input_ids"]])
    target = [token.id for token in result.target_tokens]
    b = baselines.BASELINES[name](tokenizer, ids, embedding=embedding)
    b = embedding(b) if b.dim() == 2 else b

    def log_probabilities(x):
        logits = model(inputs_embeds=x[:, :-1]).logits[0, -len(target) :].log_softmax(-1)
        return logits[range(len(target)), target].detach()

    x = embedding(ids).detach()
    for number, word in enumerate(word_positions(tokenizer, "a good movie")):
        expected = log_probabilities(x) - log_probabilities(oracle.at_baseline(x, b, word))
        assert_equal(result.matrix[:, number], expected, 1e-10)
    assert result.baseline == name


def test_no_prompt_no_result(explain):
    assert explain([], " a") == []


def test_ids_in_every_container(explain):
    expected = explain("a good", [5, 6])
    for ids in ((5, 6), torch.tensor([5, 6]), torch.tensor([[5, 6]]), np.array([5, 6])):
        assert explain("a good", ids) == expected
        assert explain(["a good"], [ids]) == [expected]
    assert explain(["a good", "a"], [5, 6])[0] == expected


def test_saved_models_are_found(tmp_path):
    from tests.tiny_language_models import encoder_decoder

    for model, tokenizer in [(causal("llama"), byte_level_tokenizer()),
                             (encoder_decoder("Bart"), wordpiece_tokenizer())]:  # fmt: skip
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
        there = TextGenerationExplainer.from_pretrained(
            tmp_path, baseline="unk", model_kwargs={"dtype": torch.float64}
        )
        here = TextGenerationExplainer(model, tokenizer, baseline="unk")
        assert type(there.model) is type(model)
        assert_equal(there("a bad", " good").matrix, here("a bad", " good").matrix, 1e-10)


def llamas_kind(**options):
    """Llama 2's tokenizer: no split into words, ▁ for spaces, bytes for what it does not know."""
    pieces = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), "▁"]
    pieces += [*"abcdefghijklmnopqrstuvwxyzIN[]/.<>|", "▁the", "▁film", "▁is", "▁good"]
    merges = [("▁", "t"), ("▁t", "h"), ("▁th", "e"), ("▁", "i"), ("▁i", "s"), ("▁", "g"),
              ("▁g", "o"), ("▁go", "o"), ("▁goo", "d"), ("▁", "f"), ("▁f", "i"), ("▁fi", "l"),
              ("▁fil", "m")]  # fmt: skip
    pieces += [one + other for one, other in merges if one + other not in pieces]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                         decoders.Fuse(), decoders.Strip(" ", 1, 0)])  # fmt: skip
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>",
                                   unk_token="<unk>", **options)  # fmt: skip


LLAMA2 = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST]' + m['content'] + '[/INST]' }}"
    "{% else %}{{ m['content'] }}{% endif %}{% endfor %}"
)


@pytest.mark.parametrize("template", [LLAMA2, "{% for m in messages %}{{ '<|' + m['role'] + '|>' "
                                      "+ m['content'] + eos_token }}{% endfor %}"])  # fmt: skip
def test_a_chat_for_a_tokenizer_that_does_not_split_into_words(template):
    tokenizer = llamas_kind()
    tokenizer.chat_template = template
    prompter = PromptEncoder(tokenizer, "word", one_text=True)
    chat = [("user", "the film"), ("assistant", "is good"), ("user", "is the film good.")]
    prompt = prompter.prompt([{"role": role, "content": text} for role, text in chat], ())
    assert [span.word for span in prompt.spans] == ["the", "film", "is", "good", "is", "the",
                                                    "film", "good."]  # fmt: skip
    assert all(prompt.text[span.start : span.end] == span.word for span in prompt.spans)
    plain = prompter.prompt("the film</s> is good", ())
    assert [span.word for span in plain.spans] == ["the", "film", "is", "good"]


@pytest.mark.parametrize("text", ["हिन्दी फिल्म अच्छी है", "cafe\u0301s noirs", "שָׁלוֹם לָכֶם"])
def test_words_are_whole_whatever_their_marks(text):
    prompter = PromptEncoder(byte_level_tokenizer(), "word", one_text=True)
    assert [span.word for span in prompter.prompt(text, ()).spans] == text.split()


def test_a_list_says_which_prompt_is_wrong(explain):
    with pytest.raises(ValueError, match="prompt 1: the prompt is empty"):
        explain(["a", ""], " b")


def test_a_model_without_a_head_is_refused():
    model = causal("gpt2").transformer
    with pytest.raises(ValueError, match="GPT2Model returns no logits"):
        TextGenerationExplainer(model, byte_level_tokenizer(), baseline="eos")("a", " b")


def test_a_generation_config_is_followed(explain):
    config = GenerationConfig(max_new_tokens=3, pad_token_id=0)
    assert len(explain("a", None, {"generation_config": config}).target_tokens) == 3


def llama_that_begins_texts(**options):
    """Llama's tokenizer as models have it: it adds <s> before a text."""
    tokenizer = llamas_kind(**options)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.bos_token_id)]
    )
    tokenizer.chat_template = "{{ bos_token }}" + LLAMA2
    return tokenizer


class TestTextThatAChatTemplateWrote:
    def test_a_prompt_has_one_beginning(self):
        tokenizer = llama_that_begins_texts()
        prompter = PromptEncoder(tokenizer, "word", one_text=True)
        chat = [{"role": "user", "content": "the film"}]
        rendered = tokenizer.apply_chat_template(chat, tokenize=False)
        with pytest.warns(UserWarning, match="the prompt begins with <s>, .* adds no second one"):
            prompt = prompter.prompt(rendered)
        assert prompt.ids == prompter.prompt(chat).ids
        assert prompt.ids.count(tokenizer.bos_token_id) == 1
        assert prompter.target(prompt, " good", 400) == prompter.target(
            prompter.prompt(chat), " good", 400
        )

    def test_other_prompts_get_theirs_without_a_warning(self):
        tokenizer = llama_that_begins_texts()
        prompter = PromptEncoder(tokenizer, "word", one_text=True)
        assert prompter.prompt("the <s> film").ids[0] == tokenizer.bos_token_id
        two = PromptEncoder(byte_level_tokenizer(), "word", one_text=True)
        twice = two.prompt("<|endoftext|><|endoftext|>good")  # it adds none
        assert twice.ids[:2] == [0, 0]

    def test_texts_of_a_classifier_have_one_beginning(self):
        tokenizer = llama_that_begins_texts(pad_token="</s>")
        encoder = Encoder(tokenizer, "word", 40)
        texts = ["<s>the film", "the film", "<s>good", "good film is good"]
        with pytest.warns(UserWarning, match="2 of 4 texts begin with <s>, .* adds no second one"):
            batches = list(
                encoder.batches(
                    list(map(TextInput, texts)), 8, truncation=True, device=torch.device("cpu")
                )
            )
        found = {n: row for b in batches for n, row in zip(b.numbers, b.ids.tolist(), strict=True)}
        assert [found[n].count(tokenizer.bos_token_id) for n in range(4)] == [1, 1, 1, 1]
        words = {n: row for b in batches for n, row in zip(b.numbers, b.spans, strict=True)}
        assert [[w.word for w in words[n]] for n in (0, 2)] == [["the", "film"], ["good"]]
        assert all(texts[n][w.start : w.end] == w.word for n in range(4) for w in words[n])


@pytest.mark.parametrize("prompts", [np.array(["a movie", "good"]), pd.Series(["a movie", "good"])])
def test_prompts_and_ids_of_other_libraries(explain, prompts):
    ids = [[70, 71], np.array([70, 71]), pd.Series([70, 71]), [torch.tensor(70), np.int64(71)]]
    for target in ids:
        found = explain(prompts, target, internal_batch_size=np.int64(2))
        assert [result.prompt for result in found] == ["a movie", "good"]
        assert [token.id for token in found[0].target_tokens] == [70, 71]


def test_the_tokenizers_own_limit_is_named():
    tokenizer = byte_level_tokenizer()
    tokenizer.model_max_length = 9
    explain = TextGenerationExplainer(causal("gpt2"), tokenizer, baseline="eos")
    message = (
        r"10 tokens, beyond the tokenizer's limit \(tokenizer.model_max_length\) of 9: shorten"
    )
    with pytest.raises(ValueError, match=message):
        explain("a" * 9, "bc")
