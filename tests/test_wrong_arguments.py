"""Wrong arguments of public functions are refused where they are given, by name."""

from photos import make_photos
from processes import run_script


def test_each_wrong_value_is_refused_by_a_word_of_ours(tmp_path):
    """Without the tests' type checker, and before anything is compiled."""
    root = make_photos(tmp_path / "photos", train=4, valid=2)
    script = "import sys, wrong_learner_arguments as w; w.main(sys.argv[1])"
    *wrong, count = run_script(script, root).splitlines()
    assert wrong == []
    assert int(count.split()[0]) > 4000
