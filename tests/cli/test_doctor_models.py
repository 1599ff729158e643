"""`gptwo doctor model` and `gptwo doctor run`: a table for a person, one object for a program, 3 for an error."""

from __future__ import annotations

import json
import shutil


def test_a_tuned_model_and_its_run(command, tuned, one_object):
    code, out, err = command("doctor", "run", tuned)
    assert (code, out) == (0, "")
    assert "the run ended at step 12 of 12" in err
    code, out, _ = command("doctor", "run", tuned, "--json")
    found = one_object(out)
    assert found["ok"] is (code == 0)
    assert "ln 2" in next(row for row in found["findings"] if row["check"] == "loss")["detail"]["references"]
    code, out, err = command("doctor", "model", tuned)
    assert (code, out) == (0, "")
    assert "a text classifier" in err


def test_an_error_is_exit_code_3(command, tuned, tmp_path, one_object):
    shutil.copytree(tuned, tmp_path / "run")
    with (tmp_path / "run" / "events.jsonl").open("a") as events:
        events.write(json.dumps({"time": 0.0, "kind": "end", "step": 12, "reason": "failed: The loss is nan"}) + "\n")
    code, out, _ = command("doctor", "run", "run", "--json")
    assert code == 3
    assert one_object(out)["findings"][0]["check"] == "failed"
    (tmp_path / "run" / "best" / "config.json").write_text("{}")
    assert command("doctor", "model", "run")[0] == 3


def test_what_is_not_there(command, tmp_path):
    assert command("doctor", "run", tmp_path)[0] == 4
    assert command("doctor", "model", "nowhere")[0] == 4
