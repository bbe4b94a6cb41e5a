"""Every argument of every public function is checked where it is given."""

from processes import run_script


def test_wrong_values_are_refused_by_name_and_right_numbers_taken():
    said = run_script("import wrong_arguments; wrong_arguments.main()")
    lines = said.splitlines()
    assert lines[:-1] == []
    assert int(lines[-1].split()[0]) > 3000
