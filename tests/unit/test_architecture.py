"""The shape of the house, held by reading the source: see docs/architecture.md."""

import ast
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import BigInteger, Numeric

from app import schema

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path for part in ("app", "workers", "scripts") for path in (ROOT / part).rglob("*.py")
)
TREES = {path: ast.parse(path.read_text()) for path in SOURCES}

# What each part of app may import, beside itself. ``app`` is the top-level modules' own part.
BASE = {"errors", "config", "db", "rows"}
FEATURES = {"billing", "webhooks", "accounts", "fleet", "catalog", "queues", "streams", "tokens"}
JOBS = {"jobs", "openai", "validation"}
ALLOWED = {
    "config": set(),
    "errors": set(),
    "logs": {"config"},
    "errortracking": {"config"},
    "server": set(),
    "db": {"config", "errors"},
    "catalog": BASE,
    "tokens": BASE | {"catalog"},
    "rows": {"db"},
    "group": {"errors"},
    "messages": set(),
    "queues": BASE | {"messages"},
    "streams": set(),
    "hearing": {"queues"},
    "billing": BASE,
    "webhooks": BASE,
    "fleet": BASE,
    "accounts": BASE | {"billing", "webhooks"},
    "validation": {"errors"},
    "jobs": BASE | FEATURES,
    "files": BASE,
    "openai": BASE | {"jobs", "files", "validation"},
    "batches": BASE | FEATURES | JOBS | {"files"},
    "schema": {"db", "jobs", "files", "batches", "billing", "webhooks", "accounts", "fleet"},
    "api": BASE
    | FEATURES
    | JOBS
    | {"files", "batches", "logs", "errortracking", "schema", "group", "hearing"},
    "cli": BASE | FEATURES | {"jobs", "schema"},
}


def imported(tree: ast.AST) -> Iterator[str]:
    """The full names of what a module imports, anywhere in it."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def named(path: Path) -> str:
    """The path as the layout names it."""
    return path.relative_to(ROOT).as_posix()


def part_of(path: Path) -> str:
    """Which part of app a file belongs to."""
    first = path.relative_to(ROOT / "app").parts[0]
    return first.removesuffix(".py")


def functions() -> Iterator[tuple[str, ast.FunctionDef]]:
    """Every function of the project, with where it stands."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                yield f"{named(path)}:{node.lineno} {node.name}", node


def length(node: ast.FunctionDef) -> int:
    """Lines of a function, its docstring included."""
    return (node.end_lineno or node.lineno) - node.lineno + 1


def test_each_part_of_app_imports_only_what_stands_below_it() -> None:
    wrong = []
    for path, tree in TREES.items():
        if not path.is_relative_to(ROOT / "app") or path == ROOT / "app" / "__init__.py":
            continue
        part = part_of(path)
        for name in imported(tree):
            pieces = name.split(".")
            if pieces[0] == "workers" or (
                pieces[0] == "app"
                and len(pieces) > 1
                and pieces[1] != part
                and pieces[1] not in ALLOWED[part]
            ):
                wrong.append(f"{named(path)} imports {name}")
    assert wrong == []


def test_every_part_of_app_has_its_rule() -> None:
    parts = {part_of(path) for path in SOURCES if path.is_relative_to(ROOT / "app")}
    assert parts - {"__init__"} == set(ALLOWED)


def test_workers_never_import_the_api_nor_flask() -> None:
    for path, tree in TREES.items():
        if path.is_relative_to(ROOT / "workers"):
            names = set(imported(tree))
            assert not {name for name in names if name.startswith(("app.api", "flask"))}, path


def test_only_engines_and_what_makes_and_measures_models_import_torch() -> None:
    for path, tree in TREES.items():
        heavy = {name.split(".")[0] for name in imported(tree)} & {"torch", "transformers"}
        rooms = ("workers/engines", "scripts/quantization", "scripts/benching/engine")
        allowed = any(path.is_relative_to(ROOT / room) for room in rooms)
        assert allowed or not heavy, path


def test_files_are_at_most_300_lines_and_mostly_short() -> None:
    lengths = {named(path): path.read_text().count("\n") for path in SOURCES}
    assert {name: lines for name, lines in lengths.items() if lines > 300} == {}
    assert statistics.median(lengths.values()) < 90


def test_functions_are_at_most_50_lines_and_mostly_short() -> None:
    lengths = {where: length(node) for where, node in functions()}
    assert {where: lines for where, lines in lengths.items() if lines > 50} == {}
    # The docstring, the signature and the body together.
    assert statistics.mean(lengths.values()) <= 12


def test_no_room_is_a_drawer() -> None:
    drawers = {"utils", "util", "helpers", "misc", "common", "dao"}
    assert [named(path) for path in SOURCES if path.stem in drawers] == []


def test_only_config_reads_the_environment() -> None:
    readers = []
    for path, tree in TREES.items():
        if path.is_relative_to(ROOT / "scripts") or path == ROOT / "app" / "config.py":
            continue
        for node in ast.walk(tree):
            reads = isinstance(node, ast.Attribute) and node.attr in {"getenv", "environb"}
            # Setting a variable for a library is no reading; loads of os.environ[...] are.
            subscript = (
                isinstance(node, ast.Subscript)
                and isinstance(node.value, ast.Attribute)
                and node.value.attr == "environ"
                and isinstance(node.ctx, ast.Load)
            )
            asked = (
                isinstance(node, ast.Attribute)
                and node.attr in {"get", "items", "copy"}
                and isinstance(node.value, ast.Attribute)
                and node.value.attr == "environ"
            )
            if reads or subscript or asked:
                readers.append(named(path))
    assert readers == []


def test_a_job_gets_its_status_only_in_the_transition_and_at_submit() -> None:
    writers = set()
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                if node.attr == "status":
                    writers.add(named(path))
            elif isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                if called.endswith((".values", "Job")) and any(
                    keyword.arg == "status" for keyword in node.keywords
                ):
                    writers.add(named(path))
            elif isinstance(node, ast.Dict) and any(
                ast.unparse(each) == "Status.QUEUED" for each in node.values
            ):
                writers.add(named(path))
    assert writers == {"app/jobs/transition.py", "app/jobs/submit.py"}


def test_only_db_commits() -> None:
    committers = {
        named(path)
        for path, tree in TREES.items()
        for node in ast.walk(tree)
        if path.is_relative_to(ROOT / "app") or path.is_relative_to(ROOT / "workers")
        if isinstance(node, ast.Attribute) and node.attr in {"commit", "begin", "begin_nested"}
    }
    assert committers == {"app/db.py"}


def floating(tree: ast.AST) -> list[int]:
    """The lines on which something is, or becomes, no integer."""
    return [
        node.lineno
        for node in ast.walk(tree)
        if (isinstance(node, ast.BinOp | ast.AugAssign) and isinstance(node.op, ast.Div))
        or (isinstance(node, ast.Constant) and isinstance(node.value, float))
        or (isinstance(node, ast.Name) and node.id in {"float", "Float", "Numeric", "Decimal"})
    ]


def about_money(node: ast.AST) -> bool:
    """Whether this names an amount."""
    names = {getattr(each, name, None) for each in ast.walk(node) for name in ("id", "attr", "arg")}
    texts = {each.value for each in ast.walk(node) if isinstance(each, ast.Constant)}
    return any(
        re.search(r"(^|_)(micros|cents|price)(_|$)", each, re.IGNORECASE)
        for each in names | texts
        if isinstance(each, str) and " " not in each
    )


def expressions(tree: ast.AST) -> Iterator[ast.AST]:
    """The statements that contain no others, and the heads of those that do."""
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt) and not hasattr(node, "body"):
            yield node
        elif isinstance(node, ast.If | ast.While):
            yield node.test
        elif isinstance(node, ast.For):
            yield node.iter
        elif isinstance(node, ast.With):
            yield from (item.context_expr for item in node.items)
        elif isinstance(node, ast.FunctionDef):
            yield from (node.args, *([node.returns] if node.returns else []))


def test_money_is_never_a_float() -> None:
    wrong = [
        f"{named(path)}:{line}"
        for path, tree in TREES.items()
        for some in ([tree] if path.is_relative_to(ROOT / "app/billing") else expressions(tree))
        if path.is_relative_to(ROOT / "app/billing") or about_money(some)
        for line in floating(some)
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "line",
    [
        "amount_micros = total / 2",
        "held_micros = 0.5",
        "charge(amount_micros=float(text))",
        "charge.held_micros /= 2",
        "row = {'held_micros': tokens * 1.5}",
        "def pay(amount_micros: float) -> None: ...",
        "if balance.held_micros > 1e6: pass",
        "price = Decimal(text)",
    ],
)
def test_a_float_would_be_seen(line: str) -> None:
    assert any(about_money(some) and floating(some) for some in expressions(ast.parse(line)))


def test_no_column_is_a_float_and_amounts_are_bigints() -> None:
    columns = [column for table in schema.metadata.tables.values() for column in table.columns]
    assert [str(each) for each in columns if isinstance(each.type, Numeric)] == []  # Float is one
    amounts = [each for each in columns if each.name.endswith("_micros")]
    assert len(amounts) >= 7
    assert [str(each) for each in amounts if not isinstance(each.type, BigInteger)] == []


def test_public_functions_take_at_most_three_parameters_by_position() -> None:
    wrong = []
    for where, node in functions():
        positional = [arg.arg for arg in node.args.args if arg.arg not in {"self", "cls"}]
        if len(positional) > 3 and not node.name.startswith("_"):
            wrong.append(where)
    assert wrong == []
