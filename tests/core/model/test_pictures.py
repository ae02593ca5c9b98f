from __future__ import annotations

from u2pl.evaluate.protocol import EvaluationProtocol
from u2pl.model.pictures import picture_rows

IDS = [f"{i:02}" for i in range(11)]


def test_picture_rows_are_spread_over_the_split(drawn, reader):
    rows = picture_rows(reader(0), drawn, IDS, EvaluationProtocol(), "cpu", count=4)
    assert [row.title for row in rows] == ["00", "02", "05", "08"]
    for row in rows:
        seen = row.truth != 255
        assert row.image.shape[:2] == row.prediction.shape == row.truth.shape
        assert (row.prediction[seen] == row.truth[seen]).all() and not seen.all()
    assert len(picture_rows(reader(0), drawn, IDS[:2], EvaluationProtocol(), "cpu", count=4)) == 2
