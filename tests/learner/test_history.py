from jaxtune.learner import History, Row


def rows():
    return [
        Row(1, 1, 1.25, 1.0, {"error_rate": 0.5}, 30.04, 61.5),
        Row(2, 1, 0.75, 0.5, {"error_rate": 0.25}, 10.0, 3.0),
    ]


def test_a_history_is_a_dict_of_lists_with_a_phase_column():
    assert History(rows()).history == {
        "phase": [1, 2],
        "epoch": [1, 1],
        "train_loss": [1.25, 0.75],
        "valid_loss": [1.0, 0.5],
        "error_rate": [0.5, 0.25],
        "images/s": [30.04, 10.0],
        "time": [61.5, 3.0],
    }


def test_it_prints_as_a_table():
    lines = str(History(rows())).splitlines()
    assert lines[0].split()[:3] == ["phase", "epoch", "train_loss"]
    assert lines[1].split() == [
        "1",
        "1",
        "1.250000",
        "1.000000",
        "0.500000",
        "30.0",
        "01:01",
    ]
    assert len({len(line) for line in lines}) == 1
    assert str(History()) == "no epoch yet"


def test_rows_can_be_added_and_reached():
    history = History()
    for row in rows():
        history.append(row)
    assert len(history) == 2 and history[-1].phase == 2
    assert [row.epoch for row in history] == [1, 1]
