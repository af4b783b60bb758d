"""Hybrid search is at least as good as either leg, where one of them does not know a query's language."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.command import succeeds
from tests.fix_serve import spool_place

# a document, and a query for it; the small English model knows no Chinese, the words of both are indexed
ENGLISH = [
    ("Returns are accepted within thirty days; the refund goes to the card that paid.", "get my money back"),
    ("Parcels leave our warehouse every evening except Sunday.", "when do you ship orders"),
    (
        "The battery lasts nine hours and charges fully in ninety minutes.",
        "how long until it runs out of power",
    ),
    ("Wash the jumper by hand in cold water and dry it flat.", "cleaning a sweater"),
    ("Our offices close on public holidays and between Christmas and New Year.", "vacation closing dates"),
    ("The invoice IN-4711 was paid twice by mistake.", "IN-4711"),
    ("Error E-2208 means that the paper tray is empty.", "E-2208"),
    ("Students pay half of the price on presenting their card.", "discount for pupils at university"),
]
CHINESE = [
    ("收到商品后三十天内可以退货，退款原路返回。", "退货多少天"),
    ("仓库每天晚上发货，星期日除外。", "什么时候发货"),
    ("电池可以使用九个小时，充满需要九十分钟。", "电池使用多久"),
    ("毛衣请用冷水手洗，平铺晾干。", "毛衣怎么洗"),
    ("公共假期以及圣诞节到新年期间办公室关闭。", "圣诞节办公室"),
    ("学生出示学生证可以享受半价。", "学生半价"),
    ("打印机缺纸时红灯会闪烁。", "红灯闪烁"),
    ("会议室需要提前一天预订。", "会议室预订"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Both languages in one collection."""
    pairs = [*ENGLISH, *CHINESE]
    documents = [{"_id": f"d{number}", "text": text} for number, (text, _) in enumerate(pairs)]
    queries = [{"_id": f"q{number}", "text": query} for number, (_, query) in enumerate(pairs)]
    for name, rows in (("corpus", documents), ("queries", queries)):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    judged = "".join(f"q{number}\td{number}\t1\n" for number in range(len(pairs)))
    (tmp_path / "qrels.tsv").write_text(judged, encoding="utf-8")
    return tmp_path


@pytest.mark.slow
def test_hybrid_is_no_worse_than_its_better_leg(dsn: str, serve_folder: Path, folder: Path) -> None:
    spool_place(dsn, serve_folder)
    succeeds("install", dsn, "--spool", serve_folder / "spool")
    told = json.loads(succeeds("eval", folder, "--dsn", dsn, "--model", "minilm", "--json"))["modes"]
    dense, sparse, hybrid = (told[mode]["ndcg@10"] for mode in ("dense", "sparse", "hybrid"))
    assert dense < 0.9  # it was a task
    assert sparse < 0.9
    assert hybrid >= max(dense, sparse)
