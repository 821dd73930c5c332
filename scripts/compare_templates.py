#!/usr/bin/env python3
"""Holds fathom's chat templates against jinja2 as transformers sets it up, over generated conversations.

usage: compare_templates.py [--rounds N] [--write] [--program PATH] [TEMPLATE ...]

Templates are those of tests/text/data/templates besides files named. --write keeps a small set of cases with jinja2's
texts in tests/text/data/templates/cases.json, which the unit test replays.
"""
import argparse
import datetime
import json
import pathlib
import random
import subprocess
import sys

import jinja2
import jinja2.ext
import jinja2.sandbox

ROOT = pathlib.Path(__file__).resolve().parent.parent
FOLDER = ROOT / "tests/text/data/templates"
NOW = 1_750_000_000


class Generation(jinja2.ext.Extension):
    """transformers' {% generation %}: a block that marks the assistant's text."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_text"), [], [], body).set_lineno(line)

    def _text(self, caller):
        return caller()


def environment():
    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    env = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = lambda form: datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc).strftime(form)
    return env


def expected(env, case):
    try:
        template = env.from_string(case["template"])
        return {"text": template.render(
            messages=case["messages"], tools=case["tools"], documents=None, bos_token=case["bos"],
            eos_token=case["eos"], **{"add_generation_prompt": case["add_generation_prompt"], **case["extra"]})}
    except Exception as error:  # whatever jinja2 or Python raises is an Error of ours
        return {"error": str(error)}


class Conversations:
    TEXTS = ["Hello!", "  padded  ", "What is 2 < 3 & \"quotes\"?", "multi\nline\n\ntext\n", "日本語 🙂 é", "", "{{ not }} a tag",
             "<think>\nlet me see\n</think>\n\nThe answer", "<tool_response>x</tool_response>", "a'b\\c\t"]

    def __init__(self, seed):
        self.random = random.Random(seed)

    def value(self, depth=0):
        kind = self.random.randrange(8 if depth < 3 else 6)
        if kind == 6:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        if kind == 7:
            return {self.random.choice("abcdé "): self.value(depth + 1) for _ in range(self.random.randrange(4))}
        return [None, True, self.random.randrange(-9, 10**6), self.random.choice([1.5, -0.1, 1e-7, 3e20, 2.0]),
                self.random.choice(self.TEXTS), False][kind]

    def schema(self, depth=0):
        kind = self.random.choice(["string", "number", "array", "object", "enum", "union"] if depth < 3 else ["string"])
        if kind == "array":
            return {"type": "array", "items": self.schema(depth + 1)}
        if kind == "object":
            names = self.random.sample(["city", "unit", "días", "limit"], self.random.randrange(4))
            return {"type": "object", "properties": {n: self.schema(depth + 1) for n in names}, "required": names[:1]}
        if kind == "enum":
            return {"type": "string", "enum": ["x", "y"]}
        return {"type": ["string", "null"]} if kind == "union" else {"type": kind, "description": "what it's for"}

    def tool(self):
        name = self.random.choice(["get_weather", "search", "add"])
        return {"type": "function", "function": {
            "name": name, "description": self.random.choice(["Does it.", "Two\nlines <b>", ""]),
            "parameters": {"type": "object", "properties": {"q": self.schema()}, "required": ["q"]}}}

    def call(self):
        arguments = {"q": self.value(), "n": self.random.randrange(5)}
        if self.random.random() < 0.2:
            arguments = json.dumps(arguments)
        return {"id": "abcdefghi", "type": "function", "function": {"name": "search", "arguments": arguments}}

    def messages(self):
        made = []
        text = lambda: self.random.choice(self.TEXTS)
        if self.random.random() < 0.5:
            made.append({"role": "system", "content": text()})
        for _ in range(self.random.randint(1, 4)):
            made.append({"role": "user", "content": text()})
            if self.random.random() < 0.3:
                made.append({"role": "assistant", "content": self.random.choice([None, text()]),
                             "tool_calls": [self.call() for _ in range(self.random.randint(1, 2))]})
                for _ in range(self.random.randint(1, 2)):
                    made.append({"role": "tool", "content": text(), "tool_call_id": "abcdefghi"})
            if self.random.random() < 0.8:
                made.append({"role": "assistant", "content": text()})
        if self.random.random() < 0.05:
            made.append({"role": "user", "content": [{"type": "text", "text": "part"}, {"type": "image"}]})
        return made

    def case(self, template):
        extra = self.random.choice([{}, {}, {"enable_thinking": False}, {"date_string": "1 Jan 2025"}, {"thinking": True},
                                    {"builtin_tools": ["search", "code_interpreter"]}, {"tools_in_user_message": False}])
        tools = [self.tool() for _ in range(self.random.randint(1, 3))] if self.random.random() < 0.5 else None
        return {"template": template, "bos": "<s>", "eos": "</s>", "messages": self.messages(), "tools": tools,
                "add_generation_prompt": self.random.random() < 0.7, "extra": extra, "now": NOW}


def make_cases(templates, rounds):
    conversations = Conversations(5)
    snippets = (FOLDER / "snippets.jinja").read_text()
    for snippet in [snippets, *snippets.split("\n")]:
        case = conversations.case(snippet)
        case["messages"] = [{"role": "user", "content": "hi"}]
        yield "snippet", case
    for path in templates:
        text = path.read_text()
        if path.suffix == ".json":
            text = json.loads(text)["chat_template"]
        for _ in range(rounds):
            yield path.stem, conversations.case(text)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--program", default=ROOT / "build/cpu-release/tests/render_templates")
    parser.add_argument("files", nargs="*", type=pathlib.Path)
    options = parser.parse_args()
    templates = sorted(p for p in FOLDER.glob("*.jinja") if p.stem != "snippets") + options.files
    cases = list(make_cases(templates, 6 if options.write else options.rounds))
    env = environment()
    wanted = [expected(env, case) for _, case in cases]
    if options.write:
        kept = []
        for (name, case), want in zip(cases, wanted):
            source = {"source": case["template"]} if name == "snippet" else {"file": name}
            kept.append({**source, **{k: v for k, v in case.items() if k != "template"}, "expected": want})
        (FOLDER / "cases.json").write_text(json.dumps(kept, ensure_ascii=False, separators=(",", ":")))
    lines = "\n".join(json.dumps(case) for _, case in cases)
    done = subprocess.run([options.program], input=lines, capture_output=True, text=True, check=True)
    differing = {}
    for (name, case), want, line in zip(cases, wanted, done.stdout.split("\n")):
        got = json.loads(line)
        if got.get("text") == want.get("text") and ("error" in got) == ("error" in want):
            continue
        differing[name] = differing.get(name, 0) + 1
        if differing[name] <= 8:
            print(f"{name}: {case['template'][:150]!r}\n  jinja2 {json.dumps(want, ensure_ascii=False)[:700]}\n  fathom "
                  f"{json.dumps(got, ensure_ascii=False)[:700]}")
    texts = sum("text" in want for want in wanted)
    print(f"{len(cases)} cases ({texts} texts, {len(cases) - texts} errors), differing: {differing or 'none'}")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
