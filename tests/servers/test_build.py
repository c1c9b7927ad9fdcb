"""The servers are built from what their go.mod says, and found where it says."""

import re
from pathlib import Path

import pytest
from servers import build


@pytest.fixture(autouse=True)
def no_assets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)


def test_what_is_built_of_one_program_stands_as_a_file_and_of_several_as_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLUICE_SERVERS", str(tmp_path))
    for name, source in build.GO.items():
        place = build.place(name)
        assert place.parent == tmp_path
        assert re.fullmatch(rf"{name}-[0-9a-f]{{12}}", place.name)
        assert not build.stands(name)
        if len(source.packages) == 1:
            place.touch()
        else:
            place.mkdir()
            assert not build.stands(name)
            for program in source.packages:
                (place / program).touch()
        assert build.stands(name)


def test_the_assets_of_other_operators_are_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    helm = build.place("helm")
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert build.place("kubernetes") == tmp_path
    assert build.place("helm") == helm
    # Half a set is not built on top of, and not into somebody else's folder.
    (tmp_path / "etcd").touch()
    assert not build.stands("kubernetes")
    with pytest.raises(build.Missing, match=f"not all of .* in {tmp_path}"):
        build.build_all(["kubernetes"])


def test_all_parts_of_kubernetes_are_of_one_version() -> None:
    said = build.go_mod("kubernetes")
    found = re.search(r"k8s.io/kubernetes v1\.(\S+)$", said, re.M)
    assert found
    replaced = re.findall(r"^\t(\S+) => (\S+) v(\S+)$", said, re.M)
    assert len(replaced) > 30
    assert {(theirs, version) for _, theirs, version in replaced} == {
        (ours, f"0.{found[1]}") for ours, _, _ in replaced
    }


def test_a_program_is_stamped_with_the_version_of_its_module() -> None:
    flags = build.ldflags("kubernetes")
    assert flags.startswith("-s -w -X ")
    version = re.search(r"gitVersion=v(\d+)\.(\d+)\.\d+ ", flags)
    assert version
    assert f"gitMajor={version[1]} " in flags
    assert f"gitMinor={version[2]} " in flags
    assert re.search(r"version\.version=v3\.\d+\.\d+ ", build.ldflags("helm"))
    assert build.ldflags("loki") == "-s -w"


def test_one_go_builds_all_that_is_missing() -> None:
    each = [build.go_wanted([name]) for name in build.GO]
    assert build.go_wanted(list(build.GO)) == max(each)
