"""A user's prompt file: what a line may hold, what is said of a wrong one, and files whose text must not be kept."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

from pytest_llmparity.captures.model import Answer
from pytest_llmparity.captures.store import CaptureStore
from pytest_llmparity.engines.base import RequestFailed
from pytest_llmparity.engines.launch_key import LaunchKey
from pytest_llmparity.option_values import OptionError
from pytest_llmparity.options import load_settings
from pytest_llmparity.run import source_of
from pytest_llmparity.run_profiles import RunProfile
from pytest_llmparity.workloads.model import Workload
from pytest_llmparity.workloads.prepare import PreparedWorkloads, Recipe, prepare
from pytest_llmparity.workloads.sources import Chat, WorkloadInvalid, from_jsonl, shipped
from pytest_llmparity.workloads.variants import forced_rollout
from pytest_llmparity.workloads.vocabulary import Vocabulary

DOCUMENT = Path(__file__).parents[2] / "docs" / "prompts.md"
SIZES = RunProfile(documents=8, length=10, prompts=4, max_tokens=6, margin=0.5, rollouts=4, rollout_tokens=9)
MARKER = "the quick brown marker"
TOOL = {"type": "function", "function": {"name": "find", "parameters": {"type": "object"}}}
CALL = {"id": "call-1", "type": "function", "function": {"name": "find", "arguments": {"number": 7}}}


class TemplateTokenizer:
    """One id a letter of a rendered chat that shows tools and arguments; refuses a chat that says `refuse`."""

    def __init__(self, vocabulary=128):
        self.vocabulary = vocabulary

    def encode(self, *, messages=None, text=None, tools=(), chat_template_kwargs=None):
        if messages is None:
            rendered = text
        else:
            rendered = json.dumps([list(messages), list(tools), dict(chat_template_kwargs or {})])
        if "refuse" in rendered:
            raise RequestFailed(f"reference: POST /tokenize answered 500: refused {rendered}", 500)
        return [ord(letter) % 128 for letter in rendered], rendered

    def sample(self, prompts, max_tokens, seeds):
        return [[seed % 128] * max_tokens for seed in seeds]

    def pieces(self):
        return [chr(i) for i in range(self.vocabulary)]


@pytest.fixture
def path(tmp_path):
    return tmp_path / "support.jsonl"


def write(path, *lines):
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def prepared_of(source, sizes=SIZES, vocabulary=128):
    return prepare(Recipe(source, sizes, top_k=20, sampled=True), TemplateTokenizer(vocabulary), lambda _: None)


class TestLines:
    def test_messages_and_plain_prompts(self, path):
        lines = [
            {"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}], "id": "hello"},
            {"prompt": "what is new?", "tags": ["news"]},
        ]
        path.write_text("\n\n".join(map(json.dumps, lines)) + "\n")
        source = from_jsonl(path)
        assert source.name == "support"
        assert not source.private
        assert [entry.id for entry in source.chats] == ["hello", "support-3"]
        assert source.chats[1] == Chat("support-3", ("news",), ({"role": "user", "content": "what is new?"},))
        assert source.texts == shipped().texts

    def test_tools_arguments_of_the_template_and_a_length(self, path):
        line = {"prompt": "a", "tools": [TOOL], "chat_template_kwargs": {"enable_thinking": False}, "max_tokens": 3}
        (chat,) = from_jsonl(write(path, line)).chats
        assert (chat.tools, chat.chat_template_kwargs, chat.max_tokens) == ((TOOL,), {"enable_thinking": False}, 3)

    def test_token_ids_stand_without_messages(self, path):
        (chat,) = from_jsonl(write(path, {"ids": [1, 0, 7]})).chats
        assert (chat.ids, chat.messages) == ((1, 0, 7), None)

    @pytest.mark.parametrize("content", [{}, {"content": None}, {"content": ""}, {"content": "Wait."}])
    @pytest.mark.parametrize("arguments", [{"number": 7}, '{"number": 7}'])
    def test_calls_of_tools_and_their_answers(self, path, content, arguments):
        call = {**CALL, "function": {"name": "find", "arguments": arguments}}
        messages = [
            {"role": "user", "content": "where?"},
            {"role": "assistant", **content, "tool_calls": [call]},
            {"role": "tool", "content": "", "tool_call_id": "call-1"},
        ]
        (chat,) = from_jsonl(write(path, {"messages": messages})).chats
        assert chat.messages is not None
        assert chat.messages[1]["tool_calls"][0]["function"] == {"name": "find", "arguments": '{"number": 7}'}
        assert chat.messages[0] == messages[0]
        assert chat.messages[2] == messages[2]

    def test_a_byte_order_mark_in_front_is_no_error(self, path):
        path.write_bytes(b"\xef\xbb\xbf" + b'{"prompt": "a"}\n')
        assert len(from_jsonl(path).chats) == 1

    def test_every_asked_thing_is_in_the_digest(self, path):
        changes = [{}, {"tools": [TOOL]}, {"max_tokens": 2}, {"chat_template_kwargs": {"a": 1}}, {"tags": ["t"]}]
        digests = {from_jsonl(write(path, {"prompt": "a"} | change)).digest for change in changes}
        digests |= {from_jsonl(path, text=False).digest, from_jsonl(write(path, {"ids": [1]})).digest}
        assert len(digests) == len(changes) + 2


def said_of(path, line):
    path.write_bytes(b'{"prompt": "a", "id": "first"}\n' + (line if isinstance(line, bytes) else line.encode()) + b"\n")
    with pytest.raises(WorkloadInvalid) as caught:
        from_jsonl(path)
    assert str(caught.value).startswith(f"{path}, line 2: ")
    return str(caught.value).removeprefix(f"{path}, line 2: ")


class TestWrongLines:
    @pytest.mark.parametrize(
        ("line", "says"),
        [
            ("{", "not JSON (Expecting property name"),
            (b'{"prompt": "\xff"}', "not UTF-8 (byte 13 of the line)"),
            (r'{"prompt": "\ud800"}', "half a surrogate pair"),
            ('{"prompt": "a", "prompt": "b"}', "not JSON (a key stands twice in one object)"),
            ('{"prompt": "a", "max_tokens": NaN}', "not JSON (NaN is no JSON)"),
            ("[1]", "expected an object, found a list"),
            ("{}", "expected one of prompt, messages, ids, found none of them"),
            ('{"prompt": "a", "messages": []}', "expected one of prompt, messages, ids, found prompt and messages"),
            ('{"prompt": "a", "temperature": 1}', "unknown key 'temperature'; known: id, tags, prompt, messages"),
            ('{"prompt": "a", "tool": []}', "unknown key 'tool'; did you mean 'tools'?"),
            ('{"prompt": "a", "chat_template_kwarg": {}}', "did you mean 'chat_template_kwargs'?"),
            ('{"prompt": ""}', "prompt: expected a text, found an empty one"),
            ('{"prompt": ["a"]}', "prompt: expected a text, found a list"),
            ('{"prompt": "b", "id": "first"}', "id 'first' is used in line 1 already"),
            ('{"prompt": "b", "id": 7}', "id: expected a text, found a number"),
            ('{"prompt": "b", "id": " "}', "id: expected a text, found an empty one"),
            ('{"prompt": "b", "tags": "news"}', "tags: expected a list of texts"),
            ('{"prompt": "b", "max_tokens": 0}', "max_tokens: expected a whole number of at least 1"),
            ('{"prompt": "b", "max_tokens": true}', "max_tokens: expected a whole number of at least 1"),
            ('{"prompt": "b", "max_tokens": 1.5}', "max_tokens: expected a whole number of at least 1"),
        ],
    )
    def test_fields(self, path, line, says):
        assert says in said_of(path, line)

    @pytest.mark.parametrize(
        ("messages", "says"),
        [
            ([], "messages: expected a list, found an empty one"),
            (5, "messages: expected a list, found a number"),
            (["hi"], "messages[0]: expected an object, found a text"),
            ([{"role": "bot", "content": "a"}], "messages[0]: a message needs a role out of assistant, system, tool"),
            ([{"role": "user", "contents": "a"}], "messages[0]: unknown key 'contents'; did you mean 'content'?"),
            ([{"role": "user"}], "messages[0].content: a message needs text as content, found null"),
            (
                [{"role": "assistant", "content": None}],
                "messages[0].content: a message needs text as content, found null",
            ),
            ([{"role": "tool", "content": None}], "messages[0].content: a message needs text as content, found null"),
            ([{"role": "user", "content": ""}], "messages[0].content: a message needs text as content, found an empty"),
            ([{"role": "user", "content": "a", "name": 1}], "messages[0].name: expected a text, found a number"),
            (
                [{"role": "user", "content": [{"type": "image_url"}]}],
                "messages[0].content: expected one text, found a list; images and audio are out of scope",
            ),
            (
                [{"role": "user", "content": "a", "tool_calls": [CALL]}],
                "messages[0].tool_calls: tools are called by the assistant, found role user",
            ),
            ([{"role": "assistant", "tool_calls": []}], "messages[0].tool_calls: expected a list, found an empty one"),
            (
                [{"role": "assistant", "tool_calls": [{"function": {}}]}],
                "messages[0].tool_calls[0].function: a tool needs a name",
            ),
            (
                [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "{"}}]}],
                "messages[0].tool_calls[0].function.arguments: not JSON",
            ),
            (
                [{"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": [1]}}]}],
                "messages[0].tool_calls[0].function.arguments: expected an object, found a list",
            ),
        ],
    )
    def test_messages(self, path, messages, says):
        assert says in said_of(path, json.dumps({"messages": messages}))

    @pytest.mark.parametrize(
        ("tools", "says"),
        [
            ([], "tools: expected a list, found an empty one"),
            (TOOL, "tools: expected a list, found an object"),
            ([{"type": "function"}], "tools[0].function: expected an object, found null"),
            ([{"type": "function", "function": {"parameters": {}}}], "tools[0].function: a tool needs a name"),
            ([TOOL, {"name": "find"}], 'tools[1]: wrap it: {"type": "function", "function": {"name": ..., ...}}'),
            ([{"type": "browser", "function": {"name": "f"}}], "tools[0].type: expected function"),
            ([{"function": {"name": "f", "parameters": "none"}}], "tools[0].function.parameters: expected an object"),
        ],
    )
    def test_tools(self, path, tools, says):
        assert says in said_of(path, json.dumps({"prompt": "a", "tools": tools}))

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["enable_thinking"], "chat_template_kwargs: expected an object, found a list"),
            ({"chat_template": "{}"}, "chat_template_kwargs: chat_template cannot be set here: the checkpoint's own"),
            ({"tools": [TOOL]}, "chat_template_kwargs: tools cannot be set here: it is a field of the line"),
        ],
    )
    def test_arguments_of_the_template(self, path, arguments, says):
        assert says in said_of(path, json.dumps({"prompt": "a", "chat_template_kwargs": arguments}))

    @pytest.mark.parametrize(
        ("entry", "says"),
        [
            ({"ids": []}, "ids: expected a list, found an empty one"),
            ({"ids": "1 2"}, "ids: expected a list, found a text"),
            ({"ids": [1, -1]}, "ids[1]: expected a token id"),
            ({"ids": [True]}, "ids[0]: expected a token id"),
            ({"ids": [1], "tools": [TOOL]}, "tools is for the chat template, and ids are sent without it"),
            ({"ids": [1], "prompt": "a"}, "found prompt and ids"),
        ],
    )
    def test_ids(self, path, entry, says):
        assert says in said_of(path, json.dumps(entry))

    def test_the_ids_of_shipped_texts_are_taken(self, path):
        taken = shipped().texts[0].id
        assert f"id {taken!r} is used by a text of the package" in said_of(
            path, json.dumps({"prompt": "a", "id": taken})
        )

    def test_no_file_no_prompt_and_a_folder(self, path):
        with pytest.raises(WorkloadInvalid, match="no such prompt file"):
            from_jsonl(path)
        path.write_text("\n\n")
        with pytest.raises(WorkloadInvalid, match="no prompt in this file"):
            from_jsonl(path)
        with pytest.raises(WorkloadInvalid, match="cannot be read"):
            from_jsonl(path.parent)

    @pytest.mark.parametrize(
        "line",
        [
            f'{{"prompt": "{MARKER}", "ids": [1]}}',
            f'{{"messages": [{{"role": "{MARKER}", "content": "{MARKER}"}}]}}',
            f'{{"prompt": "{MARKER}", "max_tokens": "{MARKER}"}}',
            f'{{"prompt": "{MARKER}"',
            f'{{"messages": ["{MARKER}"]}}',
        ],
    )
    def test_no_message_quotes_what_a_field_holds(self, path, line):
        assert MARKER not in said_of(path, line)


class TestPreparation:
    @pytest.fixture
    def source(self, path):
        entries = [
            {"id": "long", "prompt": "a", "max_tokens": 50},
            {"id": "tools", "prompt": "b", "tools": [TOOL], "chat_template_kwargs": {"enable_thinking": False}},
            {"id": "logged", "ids": [3, 5, 127], "tags": ["log"]},
        ]
        return from_jsonl(write(path, *entries))

    def test_a_prompts_own_length_wins(self, source):
        prepared = prepared_of(source)
        assert [prompt.max_tokens for prompt in prepared.greedy.prompts] == [50, 6, 6]
        assert [prompt.max_tokens for prompt in prepared.rollout.prompts] == [50, 9, 9]

    def test_tools_and_arguments_are_rendered_and_sent(self, source):
        prompt = prepared_of(source).greedy.find("tools")
        assert prompt.text is not None
        assert '"find"' in prompt.text
        assert prompt.template_fields == {
            "tools": [TOOL],
            "tool_choice": "none",
            "chat_template_kwargs": {"enable_thinking": False},
        }
        assert prepared_of(source).greedy.find("long").template_fields == {}

    def test_token_ids_are_sent_as_they_are_and_never_tokenised_nor_chatted(self, source):
        prepared = prepared_of(source)
        assert prepared.greedy.find("logged").ids == (3, 5, 127)
        assert prepared.greedy.find("logged").tags == ("ids", "log")
        assert "logged" not in {prompt.id for prompt in prepared.prompts.prompts}
        assert [prompt.id for prompt in prepared.named("greedy-chat").prompts] == ["long", "tools"]
        assert prepared.forced.find("sampled-logged").ids[:3] == (3, 5, 127)

    def test_an_id_that_the_model_does_not_have_names_the_prompt(self, path):
        source = from_jsonl(write(path, {"prompt": "a"}, {"id": "logged", "ids": [127, 128]}))
        with pytest.raises(WorkloadInvalid, match=r"prompt 'logged': token id 128 is none of the model's 128 ids"):
            prepared_of(source)

    def test_a_chat_that_the_template_refuses_is_named(self, path):
        write(path, {"prompt": "fine"}, {"id": "bad", "prompt": "refuse this"})
        with pytest.raises(RequestFailed, match=r"prompt 'bad' cannot be rendered .*: refused .*this"):
            prepared_of(from_jsonl(path))
        with pytest.raises(RequestFailed) as caught:
            prepared_of(from_jsonl(path, text=False))
        assert "prompt 'bad' cannot be rendered" in str(caught.value)
        assert "this" not in str(caught.value)

    def test_tools_and_arguments_count_in_the_digest(self, source):
        greedy = prepared_of(source).greedy
        plain = replace(greedy.find("tools"), tools=())
        without = [plain if prompt.id == "tools" else prompt for prompt in greedy.prompts]
        assert replace(greedy, prompts=tuple(without)).digest != greedy.digest

    def test_json_makes_the_same_workloads(self, source):
        prepared = prepared_of(source)
        back = PreparedWorkloads.from_json(json.loads(json.dumps(prepared.to_json())))
        assert back == prepared
        assert back.digest == prepared.digest

    def test_a_small_file_says_with_what_it_is_left(self, source):
        recipe = Recipe(source, SIZES, top_k=20, sampled=True)
        assert recipe.shortfall is not None
        assert (
            "support: 3 prompts where the run profile takes up to 4: 3 greedy of 4, 3 rollouts of 4" in recipe.shortfall
        )
        assert "7 forced documents of 8 (4 shipped human texts, 3 drawn from these prompts)" in recipe.shortfall
        enough = replace(source, chats=(*source.chats, replace(source.chats[0], id="more")))
        assert replace(recipe, source=enough).shortfall is None
        assert Recipe(shipped(), SIZES, 20, sampled=True).shortfall is None


@pytest.fixture
def private(path):
    entries = [
        {"id": "one", "prompt": f"{MARKER} one"},
        {"id": "two", "prompt": "b", "tools": [{"function": {"name": "f", "description": MARKER}}]},
        {"id": "three", "prompt": "c", "chat_template_kwargs": {"note": MARKER}},
        {"id": "four", "ids": [1, 2]},
    ]
    return from_jsonl(write(path, *entries), text=False)


class TestPrivatePrompts:
    def test_nothing_that_is_kept_or_shown_holds_their_text(self, private):
        prepared = prepared_of(private)
        kept = json.dumps(prepared.to_json())
        shown = repr(private) + repr(prepared) + repr(private.chats) + repr(prepared.rollout.prompts)
        assert MARKER not in kept + shown
        assert prepared.to_json()["pieces"] == []
        assert prepared.to_json()["greedy"]["prompts"][0]["hashes"].keys() == {"request", "rendered"}

    def test_public_ones_are_kept_whole(self, private, path):
        assert MARKER in json.dumps(prepared_of(from_jsonl(path)).to_json())

    def test_the_shipped_human_text_is_no_secret(self, private):
        texts = [prompt for prompt in prepared_of(private).prompts.prompts if prompt.messages is None]
        assert texts
        assert all(prompt.text and not prompt.private for prompt in texts)

    @pytest.mark.parametrize("name", ["prompts", "forced", "greedy", "rollout", "greedy-chat", "greedy-neighbours"])
    def test_what_was_kept_answers_the_same_questions(self, private, name):
        prepared = prepared_of(private)
        back = PreparedWorkloads.from_json(json.loads(json.dumps(prepared.to_json())))
        assert back.named(name).digest == prepared.named(name).digest
        assert back.named(name).private

    def test_another_text_is_another_question(self, private, path):
        before = prepared_of(private).greedy
        changed = replace(before.prompts[0], hashes={**(before.prompts[0].hashes or {}), "request": "0" * 64})
        assert replace(before, prompts=(changed, *before.prompts[1:])).digest != before.digest
        assert prepared_of(from_jsonl(path)).greedy.digest != before.digest

    def test_the_runs_file_gives_the_messages_back(self, private):
        prepared = prepared_of(private)
        back = PreparedWorkloads.from_json(json.loads(json.dumps(prepared.to_json())))
        assert back.greedy.prompts[0].messages == ()
        restored = back.restored(private)
        for name in ("prompts", "forced", "greedy", "rollout"):
            assert restored.named(name) == prepared.named(name)

    def test_another_file_does_not(self, private, path):
        back = PreparedWorkloads.from_json(json.loads(json.dumps(prepared_of(private).to_json())))
        with pytest.raises(WorkloadInvalid, match="prompt 'one' was captured without its text, and other has no such"):
            back.restored(replace(private, name="other", chats=()))
        other = replace(private.chats[0], messages=({"role": "user", "content": "other"},))
        with pytest.raises(WorkloadInvalid, match="support has another text for it"):
            back.restored(replace(private, chats=(other, *private.chats[1:])))

    def test_the_store_keeps_the_vocabulary_apart(self, private, tmp_path):
        store, key = CaptureStore(tmp_path / "cache"), LaunchKey({"kind": "hf"})
        recipe, prepared = Recipe(private, SIZES, top_k=20, sampled=True), prepared_of(private)
        store.put_prepared(key, recipe, prepared)
        assert store.get_prepared(key, recipe) == prepared
        files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
        assert not [path for path in files if MARKER in path.read_text()]
        (shown,) = store.all_prepared()
        assert shown.vocabulary == Vocabulary((), hidden=128)

    def test_a_hidden_vocabulary_shows_ids(self):
        hidden = Vocabulary(("a", "b")).kept_hidden()
        assert (hidden.piece(1), hidden.text([0, 1]), hidden.size) == ("1", "0 1", 2)
        assert hidden.pieces == ("a", "b")
        assert (Vocabulary(("a", "b")).size, Vocabulary().size) == (2, 0)

    def test_an_answer_without_its_text(self):
        answer = Answer("one", completion_tokens=3, text=MARKER).without_text()
        assert (answer.text, answer.completion_tokens) == (None, 3)
        assert answer.text_sha256 is not None
        assert len(answer.text_sha256) == 64
        assert Answer("one").without_text() == Answer("one")

    def test_what_an_arm_generated_stays_private(self, private):
        rollout = prepared_of(private).rollout
        assert all(prompt.private for prompt in rollout.prompts)
        assert forced_rollout(rollout, _Generated(rollout)).private  # type: ignore[arg-type]


class TestOptions:
    @pytest.fixture
    def root(self, tmp_path):
        (tmp_path / "pyproject.toml").write_text('[tool.llmparity]\nworkload = "a.jsonl"\nworkload-text = false\n')
        return tmp_path

    def test_the_shipped_prompts_are_the_default(self, tmp_path):
        settings = load_settings(tmp_path, {}, {}, {})
        assert (settings.workload, settings.workload_text) == (None, True)
        assert source_of(settings) is shipped()

    def test_a_path_of_the_project_starts_at_its_folder(self, root):
        assert load_settings(root, {}, {}, {}).workload == root / "a.jsonl"
        (root / "pyproject.toml").unlink()
        assert load_settings(root, {}, {"workload": "b.jsonl"}, {}).workload == root / "b.jsonl"

    def test_the_command_line_comes_before_the_environment_before_the_project(self, root):
        variables = {"LLMPARITY_WORKLOAD": "env.jsonl", "LLMPARITY_WORKLOAD_TEXT": "true"}
        given = {"workload": "line.jsonl", "workload-text": "false"}
        assert load_settings(root, {}, {}, variables).workload == Path("env.jsonl")
        assert load_settings(root, {}, {}, variables).workload_text
        assert load_settings(root, given, {}, variables).workload == Path("line.jsonl")
        assert not load_settings(root, given, {}, variables).workload_text

    @pytest.mark.parametrize("value", ["no", "0", ""])
    def test_keeping_text_is_true_or_false(self, root, value):
        with pytest.raises(OptionError, match=r"--llm-workload-text: expected true or false, found"):
            load_settings(root, {"workload-text": value}, {}, {})

    def test_the_file_is_read_as_the_settings_say(self, root):
        write(root / "a.jsonl", {"prompt": "a"})
        source = source_of(load_settings(root, {}, {}, {}))
        assert (source.name, source.private) == ("a", True)


class _Generated:
    """A capture of one token for each prompt."""

    def __init__(self, workload: Workload) -> None:
        self._workload = workload

    def position(self, prompt_id):
        return [prompt.id for prompt in self._workload.prompts].index(prompt_id)

    def scored(self, i):
        import numpy as np

        from pytest_llmparity.captures.model import Scored

        return Scored(np.asarray([7], np.int32), *([np.zeros((1, 0), np.float32)] * 3))


class TestDocument:
    """docs/prompts.md: its examples are used, and its tables name every key."""

    text = DOCUMENT.read_text()

    def block(self, language):
        found = re.search(rf"^```{language}\n(.*?)^```", self.text, re.MULTILINE | re.DOTALL)
        assert found is not None
        return found.group(1)

    def test_the_example_is_read_and_prepared(self, path):
        path.write_text(self.block("jsonl"))
        source = from_jsonl(path)
        assert [chat.id for chat in source.chats] == ["refund", "invoice", "order", "quick", "logged"]
        prompts = prepared_of(source, replace(SIZES, prompts=5), vocabulary=10_000).greedy.prompts
        assert [prompt.max_tokens for prompt in prompts] == [6, 24, 6, 6, 6]
        assert [prompt.template_fields.keys() for prompt in prompts[2:4]] == [
            {"tools", "tool_choice"},
            {"chat_template_kwargs"},
        ]

    def test_the_setting_names_the_file(self, tmp_path):
        (tmp_path / "pyproject.toml").write_text(self.block("toml"))
        assert load_settings(tmp_path, {}, {}, {}).workload == tmp_path / "prompts.jsonl"

    def test_every_key_is_in_a_table(self, path):
        for key in re.findall(r"known: (.*)", said_of(path, '{"zzz": 1}'))[0].split(", "):
            assert f"| `{key}` |" in self.text
