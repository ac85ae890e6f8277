"""The registry: names, presets, keywords checked against signatures, third-party entry points."""

import subprocess
import sys
from importlib.metadata import EntryPoint
from typing import Literal

import pytest
import test_detectors
import tiny
from torch import nn

from resproto_fd import detectors
from resproto_fd.configs import loading
from resproto_fd.configs.errors import UserError
from resproto_fd.detectors import create_detector, register, registry
from resproto_fd.training.cli import main


@pytest.fixture
def clean_registry(monkeypatch):
    """Whatever a test registers is gone after it."""
    monkeypatch.setattr(registry, "_classes", dict(registry._classes))
    registry._entry_points.cache_clear()
    yield registry
    registry._entry_points.cache_clear()


@pytest.fixture
def probe(clean_registry):
    """A registered class that only keeps its keywords."""

    @register("probe")
    class Probe(nn.Module):
        def __init__(self, width: int, rate: float = 0.5, kind: Literal["a", "b"] = "a", layout: dict | None = None):
            super().__init__()
            self.given = (width, rate, kind, layout)

    return Probe


@pytest.mark.slow
def test_listing_and_importing_the_registry_does_not_import_torch():
    code = (
        "import sys; from resproto_fd.detectors import create_detector;"
        "from resproto_fd.detectors.registry import describe_detectors;"
        "assert describe_detectors(); sys.exit('torch' in sys.modules or 'open_clip' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_unknown_name_says_what_exists_and_the_nearest():
    with pytest.raises(UserError, match=r"'resproto-fd'; the nearest is 'resproto_fd'; known: .*clip_zero_shot"):
        create_detector("resproto-fd")
    with pytest.raises(UserError, match=r"no detector class is called 'tim'; the nearest is 'timm'"):
        registry.detector_class("tim")


def test_a_taken_name_is_an_error_that_names_both(clean_registry):
    with pytest.raises(ValueError, match=r"'clip' is taken by resproto_fd\.detectors\.clip.*; .*Mine needs another"):

        @register("clip")
        class Mine: ...


def test_a_name_taken_by_a_class_of_another_package_is_an_error_too(probe):
    class Other: ...

    Other.__module__ = "elsewhere"
    with pytest.raises(ValueError, match=r"'probe' is taken by .*Probe; elsewhere\..*Other needs another name"):
        register("probe")(Other)


def test_the_name_of_a_preset_is_taken_for_other_classes(clean_registry):
    with pytest.raises(ValueError, match=r"'xception' is taken by the preset xception\.yaml"):

        @register("xception")
        class Mine: ...


def test_registering_the_same_class_again_is_no_error(probe):
    assert register("probe")(probe) is probe


def test_keywords_reach_the_constructor_with_whole_numbers_taken_as_floats(probe):
    given = create_detector("probe", width=3, rate=1, kind="b", layout={"depth": [1, 2]}).given
    assert given == (3, 1.0, "b", {"depth": [1, 2]})
    assert isinstance(given[1], float)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"width": 3, "rates": 1.0}, r"detector 'probe', model: unknown key 'rates'; the nearest is 'rate'"),
        ({"width": "3"}, r"key 'width': .*integer.*'3'"),
        ({"width": 3.5}, r"key 'width'"),
        ({"width": True}, r"key 'width'"),
        ({"width": 3, "rate": "0.5"}, r"key 'rate'"),
        ({"width": 3, "rate": float("inf")}, r"key 'rate': .*finite"),
        ({"width": 3, "kind": "c"}, r"key 'kind': .*'a' or 'b'"),
        ({}, r"key 'width' is missing"),
    ],
)
def test_keywords_that_do_not_fit_the_signature_are_named(probe, keywords, message):
    with pytest.raises(UserError, match=message):
        create_detector("probe", **keywords)


def test_further_keywords_are_those_with_a_default_of_the_constructor_that_is_extended(probe):
    @register("wide")
    class Wide(probe):
        def __init__(self, depth: int = 1, kind: Literal["b", "c"] = "b", **probe):
            super().__init__(8 * depth, kind=kind, **probe)

    assert registry.keywords_of("wide") == ["depth", "kind", "rate", "layout"]
    assert registry.defaults_of("wide") == {"depth": 1, "kind": "b", "rate": 0.5, "layout": None}
    assert create_detector("wide", depth=2, rate=1, kind="c").given == (16, 1.0, "c", None)
    with pytest.raises(UserError, match=r"unknown key 'width'; .*known here: depth, kind, layout, rate"):
        create_detector("wide", width=3)
    with pytest.raises(UserError, match=r"key 'rate': .*number"):
        create_detector("wide", rate="0.5")


def test_further_keywords_that_no_constructor_names_are_passed_as_they_are(clean_registry):
    @register("any")
    class Any(nn.Module):
        def __init__(self, width: int = 1, **rest):
            super().__init__()
            self.given = (width, rest)

    assert create_detector("any", width=2, colour="red").given == (2, {"colour": "red"})


@pytest.mark.parametrize("keywords", [{"gamma": 1.5}, {"top_k": 0}, {"similarity": "angle"}, {"start_epoch": -1}])
def test_values_out_of_range_are_refused_before_anything_is_built(keywords):
    with pytest.raises(UserError, match=next(iter(keywords))):
        create_detector("resproto_fd", **keywords)


def test_a_preset_gives_its_keywords_and_config_lies_over_them(probe, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("detector: probe\nmodel: {width: 7, rate: 1e-3}\n")
    assert create_detector(str(path), kind="b").given == (7, 1e-3, "b", None)
    assert create_detector(str(path), width=8).given == (8, 1e-3, "a", None)


def test_build_detector_adds_nothing_to_a_resolved_configuration(probe, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("detector: probe\nmodel: {width: 7}\n")
    assert registry.build_detector(loading.load("detectors", str(path))).given == (7, 0.5, "a", None)


def test_a_preset_named_like_its_class_says_the_class_defaults_only():
    """Else a class name in a resolved configuration would bring a preset's keywords with it."""
    shared = [name for name in loading.names("detectors") if name in registry.class_names()]
    assert shared
    for name in shared:
        config = loading.load("detectors", name)
        assert config.detector == name
        fields = registry._schema(name).model_fields
        assert {key: fields[key].default for key in config.model} == config.model


def test_every_preset_fits_its_class_and_says_where_it_is_from():
    names = loading.names("detectors")
    assert len(names) >= 6
    for name in names:
        config = loading.load("detectors", name)
        registry.check_model(config)
        assert config.title, name
        assert config.source or config.note, name


def test_the_list_names_backbone_and_weights_of_every_preset_from_the_yaml_alone():
    rows = {row["name"]: row for row in registry.describe_detectors()}
    (columns,) = {tuple(row) for row in rows.values()}
    assert columns[:6] == ("name", "title", "class", "level", "backbone", "parameters")
    assert columns[6:] == ("pretrained", "needs", "fidelity", "DeepfakeBench", "paper")
    assert {*loading.names("detectors"), "timm", "deepfakebench_class"} == set(rows)
    towers = [
        n
        for n in loading.names("detectors")
        if "backbone" in registry.keywords_of(loading.load("detectors", n).detector)
    ]
    assert len(towers) > 8
    assert all(rows[name]["pretrained"] for name in towers)
    assert all(rows[name]["backbone"] for name in loading.names("detectors") if name != "chance")
    assert rows["resproto_fd"] | {"title": "ResProto-FD", "backbone": "ViT-B-16"} == rows["resproto_fd"]
    assert rows["xception"]["pretrained"] == "yes"
    assert rows["clip_tiny"]["backbone"].startswith("own CLIP")
    assert rows["clip_tiny"]["pretrained"] == "no"


def offer(monkeypatch, **points: str) -> None:
    """Let installed packages offer these entry points, name = value."""
    found = [EntryPoint(name, value, registry.GROUP) for name, value in points.items()]
    monkeypatch.setattr(registry, "entry_points", lambda group: [p for p in found if p.group == group])


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A module of another package, importable, that registers `theirs`."""
    path = tmp_path / "other_package_detector.py"
    path.write_text(
        "from resproto_fd.detectors import register\nfrom resproto_fd.detectors.base import Detector\n\n"
        "@register('theirs')\nclass Theirs(Detector):\n"
        "    def __init__(self, size: int = 4):\n        super().__init__()\n        self.size = size\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    yield path.stem
    sys.modules.pop(path.stem, None)


@pytest.mark.parametrize("suffix", ["", ":Theirs"])
def test_a_detector_of_another_package_is_found_by_its_entry_point(clean_registry, monkeypatch, package, suffix):
    offer(monkeypatch, theirs=package + suffix)
    assert "theirs" in registry.class_names()
    assert package not in sys.modules
    assert create_detector("theirs", size=9).size == 9
    with pytest.raises(UserError, match=r"unknown key 'sise'; the nearest is 'size'"):
        create_detector("theirs", sise=9)


def test_an_entry_point_that_registers_another_name_is_told_so(clean_registry, monkeypatch, package):
    offer(monkeypatch, promised=package)
    with pytest.raises(UserError, match=r"'promised': other_package_detector was imported but registers no such name"):
        create_detector("promised")


def test_an_entry_point_that_cannot_be_imported_is_told_so(clean_registry, monkeypatch):
    offer(monkeypatch, gone="no_such_module_anywhere")
    with pytest.raises(UserError, match=r"'gone' .*cannot be imported \(no_such_module_anywhere\): .*No module named"):
        create_detector("gone")


def test_an_entry_point_may_not_take_a_built_in_name(clean_registry, monkeypatch, capsys):
    offer(monkeypatch, clip="elsewhere")
    assert registry.detector_class("clip").__module__ == "resproto_fd.detectors.clip"
    assert "'clip' is taken by resproto_fd.detectors.clip; elsewhere" not in capsys.readouterr().err
    registry.class_names()
    assert "'clip' is taken by resproto_fd.detectors.clip; elsewhere" in capsys.readouterr().err


THEIRS = "class Theirs(Detector):\n    def __init__(self"
BROKEN = {
    "raises": (f"{THEIRS}): 1 / 0\n", "its constructor failed .*ZeroDivisionError"),
    "exits": (f"{THEIRS}): raise SystemExit(3)\n", "its constructor failed .*SystemExit: 3"),
    "hints": (f"{THEIRS}, width: 'Gone' = 1): ...\n", "signature .*'Gone' is not"),
    "other": ("class Theirs: ...\n", r"expected a subclass of .*Detector, got broken_package\.Theirs"),
    "function": ("def Theirs(): ...\n", "registers no such name"),
    "exit": ("raise SystemExit(3)\n", "cannot be imported .*SystemExit: 3"),
    "base": ("class Own(BaseException): ...\nraise Own\n", "cannot be imported .*Own"),
    "syntax": ("def\n", "cannot be imported .*SyntaxError"),
}


@pytest.mark.parametrize("fault", tiny.quick_and_slow(BROKEN, ["raises", "syntax"]))
def test_a_broken_detector_of_another_package_is_named_and_others_go_on(
    clean_registry, monkeypatch, tmp_path, demo, fault, capsys
):
    code, message = BROKEN[fault]
    (tmp_path / "broken_package.py").write_text(f"from resproto_fd.detectors.base import Detector\n{code}")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_package", raising=False)
    offer(monkeypatch, theirs="broken_package:Theirs")
    quiet = [f"run.out={tmp_path}", "run.device=cpu", "run.workers=0"]
    assert main(["list", "detectors"]) == 0
    assert main(["train", "--detector", "theirs", "--protocol", "demo_cross", f"data.root={demo}", *quiet]) == 2
    with pytest.raises(UserError, match=f"'theirs'.*{message}"):
        create_detector("theirs")
    assert create_detector("chance")
    assert "theirs" in capsys.readouterr().err
    sys.modules.pop("broken_package", None)


def test_a_name_that_two_packages_claim_is_refused_when_it_is_asked_for(clean_registry, monkeypatch):
    found = [EntryPoint("theirs", value, registry.GROUP) for value in ("one:One", "two:Two")]
    monkeypatch.setattr(registry, "entry_points", lambda group: found)
    assert "theirs" in registry.class_names()
    with pytest.raises(UserError, match=r"'theirs' is claimed by several installed packages: one:One .*, two:Two"):
        create_detector("theirs")


def test_damaged_metadata_of_a_package_stops_no_other_command(clean_registry, monkeypatch, capsys):
    def damaged(group):
        raise TypeError("no =")

    monkeypatch.setattr(registry, "entry_points", damaged)
    assert main(["list", "detectors"]) == 0
    assert "left out: their entry points: TypeError('no =')" in capsys.readouterr().err


def test_a_file_does_not_name_code_to_import(tmp_path):
    """Only what is typed does, or a file that is trusted on purpose."""
    path = tmp_path / "stranger.yaml"
    path.write_text("detector: deepfakebench_class\nmodel: {target: 'made:PeerDetector', config: {width: 6}}\n")
    config = loading.load("detectors", str(path))
    for refused in (registry.check_model, registry.build_detector):
        with pytest.raises(
            UserError, match=r"'stranger': a file names code .*model\.target=made:PeerDetector.*--trust-"
        ):
            refused(config)
    with pytest.raises(UserError, match="names code"):
        create_detector(str(path))
    assert create_detector(str(path), target="made:PeerDetector").target == "made:PeerDetector"
    assert registry.build_detector(config.trusting(["target"])).target == "made:PeerDetector"
    assert registry.build_detector(config.trusting()).target == "made:PeerDetector"
    assert "trust" not in config.trusting().model_dump_json()


OWN_CLASS = """
from torch import Tensor, nn
from resproto_fd.detectors.base import Detector, Output, two_class_output
from resproto_fd.detectors.registry import register

@register("brand_new")
class BrandNew(Detector):
    def __init__(self, width: int = 64):
        super().__init__()
        self.body, self.classifier = nn.Conv2d(3, width, 3), nn.Linear(width, 2)

    def encode(self, images: Tensor) -> Tensor:
        return self.body(images).mean(dim=(2, 3))

    def head(self, features: Tensor, labels: Tensor | None = None, **fields: Tensor) -> Output:
        return two_class_output(self.classifier(features), features, labels)
"""


@pytest.fixture
def two_edits(clean_registry, tmp_path, monkeypatch):
    """A class file and a preset in folders that stand for this repository's."""
    for folder in ("detectors", "configs/detectors"):
        (tmp_path / folder).mkdir(parents=True)
    (tmp_path / "detectors" / "brand_new.py").write_text(OWN_CLASS)
    (tmp_path / "detectors" / "a_helper.py").write_text("# registers nothing\n")
    preset = "detector: brand_new\ntitle: New\nparameters: 1922\ntiny: {width: 4}\n"
    (tmp_path / "configs" / "detectors" / "brand_new.yaml").write_text(preset)
    cached = registry._own_modules, loading.names
    for function in cached:
        function.cache_clear()
    for module in (registry, loading):
        monkeypatch.setattr(module, "files", lambda package: tmp_path / package.rpartition(".")[2])
    monkeypatch.setattr(detectors, "__path__", [*detectors.__path__, str(tmp_path / "detectors")])
    yield
    monkeypatch.undo()
    sys.modules.pop("resproto_fd.detectors.brand_new", None)
    for function in cached:
        function.cache_clear()


def test_a_class_file_and_a_preset_make_a_detector_that_is_listed_and_tested(two_edits, monkeypatch):
    tiny._presets.cache_clear()
    row = next(row for row in registry.describe_detectors() if row["name"] == "brand_new")
    assert (row["name"], row["class"]) == ("brand_new", "brand_new")
    assert "brand_new" in registry.class_names()
    assert "a_helper" not in registry.class_names()
    assert "resproto_fd.detectors.brand_new" not in sys.modules
    case = tiny.tiny("brand_new")
    assert case == {"width": 4}
    monkeypatch.setitem(tiny.CASES, "brand_new", ("brand_new", case))
    assert tiny.trains("brand_new")
    test_detectors.test_outputs_have_their_shapes_and_ranges("brand_new")
    test_detectors.test_every_trainable_parameter_gets_a_finite_gradient("brand_new")
    test_detectors.test_scores_depend_on_the_image_alone("brand_new")
    test_detectors.assert_listed_as_built(loading.load("detectors", "brand_new"), create_detector("brand_new"))
    tiny._presets.cache_clear()
