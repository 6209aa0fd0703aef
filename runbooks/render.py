"""A runbook as a page for people, in one language; and docs/reference/runbooks.md, which has them all.

`python -P -m runbooks.render` prints the reference; a test holds the file to it.
"""

from collections.abc import Iterator, Mapping

from runbooks.library import read, runbook_files
from runbooks.model import Native, NoUndo, Play, Runbook, Step
from runbooks.placeholders import fill, filled
from runbooks.registry import registered
from zaibei.kernel.units import say_duration

_WORDS: dict[str, dict[str, str]] = {
    "en": {
        "when": "When",
        "claim": "Proves",
        "owner": "Owner",
        "danger": "Danger",
        "drill": "Drill",
        "approvals": "Approvals",
        "before": "Before it starts",
        "proof": "proof",
        "undo": "undo",
        "by hand": "by hand",
        "within": "within",
        "none": "none",
        "parameters": "Parameters",
        "does": "does",
        "none needed": "none needed",
    },
    "zh": {
        "when": "何时",
        "claim": "证明",
        "owner": "责任人",
        "danger": "危险",
        "drill": "演练",
        "approvals": "审批人数",
        "before": "开始之前",
        "proof": "证明",
        "undo": "撤销",
        "by hand": "人工",
        "within": "时限",
        "none": "不可撤销",
        "parameters": "参数",
        "does": "动作",
        "none needed": "不需要",
    },
}
_LEVEL = {"none": "无", "disruptive": "有影响", "destructive": "破坏性"}


def page(runbook: Runbook, language: str, *, values: Mapping[str, str] | None = None) -> str:
    return "\n".join(_lines(runbook, language, values or {})) + "\n"


def _lines(runbook: Runbook, language: str, values: Mapping[str, str]) -> Iterator[str]:
    word = _WORDS[language]
    level = runbook.danger.level if language == "en" else _LEVEL[runbook.danger.level]
    colon, stop = (": ", ".") if language == "en" else ("：", "")
    needed = str(runbook.approvals.needed or word["none needed"])
    yield f"## {runbook.id}{colon}{runbook.title.say(language)}"
    yield ""
    yield f"- **{word['when']}**{colon}{runbook.when.say(language)}"
    yield f"- **{word['claim']}**{colon}{fill(runbook.claim.say(language), values)}"
    yield f"- **{word['danger']}** ({level}){colon}{fill(runbook.danger.what.say(language), values)}"
    yield f"- **{word['owner']}**{colon}{runbook.owner}"
    yield f"- **{word['drill']}**{colon}`{runbook.drill}`"
    yield f"- **{word['approvals']}**{colon}{needed}"
    for name, parameter in runbook.parameters.items():
        default = "" if parameter.default is None else f" (`{parameter.default}`)"
        yield f"- **{word['parameters']}** `{name}`{colon}{parameter.title.say(language)}{default}"
    for check in runbook.preconditions:
        yield f"- **{word['before']}**{colon}{fill(check.says.say(language), values)} (`{check.check}`)"
    yield ""
    for number, step in enumerate(runbook.steps, start=1):
        yield from _step(number, step, language, values, colon, stop)
    yield ""


def _step(
    number: int, step: Step, language: str, values: Mapping[str, str], colon: str, stop: str
) -> Iterator[str]:
    word = _WORDS[language]
    yield f"{number}. **{step.title.say(language)}** (`{step.id}`, {word['within']} {say_duration(step.deadline)})"
    yield f"   - {word['does']}{colon}{does(step.action, values)}"
    yield f"   - {word['proof']}{colon}{fill(step.proof.says.say(language), values)} (`{step.proof.check}`)"
    if isinstance(step.undo, NoUndo):
        undone = f"{word['none']}{colon}{step.undo.none.say(language)}"
    else:
        undone = does(step.undo, values)
    yield f"   - {word['undo']}{colon}{undone}"
    yield f"   - {word['by hand']}{colon}{fill(step.fallback.say(language), values)}"


def does(action: Native | Play, values: Mapping[str, str]) -> str:
    """One line: what is done, to whom, with what."""
    args = " ".join(f"{k}={_say(v)}" for k, v in filled(action.args, values).items())
    if isinstance(action, Play):
        where = fill(action.limit, values)
        return f"`{action.play}` @ `{where}`" + (f" `{args}`" if args else "")
    return f"`{action.native}`" + (f" `{args}`" if args else "")


def _say(value: object) -> str:
    return ",".join(value) if isinstance(value, list) else str(value)


def reference() -> str:
    """docs/reference/runbooks.md."""
    books = [read(f).runbook for f in runbook_files()]
    lines = [
        "# Runbooks",
        "",
        "Printed from `runbooks/library/*.yml` (`python -P -m runbooks.render`); a test holds the two together.",
        "",
        "| runbook | 名称 | danger | drill |",
        "|---|---|---|---|",
        *(f"| [{b.id}](#{b.id}) | {b.title.zh} | {b.danger.level} | `{b.drill}` |" for b in books),
        "",
    ]
    for book in books:
        lines += [f'<a id="{book.id}"></a>', "", page(book, "en").rstrip(), "", page(book, "zh")]
    lines += [
        "## Native actions and checks",
        "",
        "What `native:` and `check:` in a runbook may name.",
        "",
        "| name | kind | arguments | what it does, or asks |",
        "|---|---|---|---|",
    ]
    ours = {n: a for n, a in registered().items() if a.call.__module__ == "runbooks.native"}
    for name, one in sorted(ours.items()):
        args = ", ".join(k if required else f"[{k}]" for k, required in one.parameters().items())
        kind = "check" if one.asks else "action"
        lines.append(f"| `{name}` | {kind} | {args or '–'} | {one.says} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(reference(), end="")
