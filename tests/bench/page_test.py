#!/usr/bin/env python3
"""The page of bench/run, built of a stored sample and of less.

usage: page_test.py TREE
"""
import html.parser
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

TREE = pathlib.Path(sys.argv.pop()).resolve()
BUILD = TREE / "bench" / "page" / "build"
PEERS = TREE / "bench" / "peers" / "table"
SAMPLE = TREE / "tests" / "bench" / "page_sample"
VOID = {"meta", "br", "hr", "img", "link", "input"}
SECTIONS = 8


class Elements(html.parser.HTMLParser):
    """Fails on what is not closed in turn, and gathers what a page says."""

    def __init__(self):
        super().__init__()
        self.open, self.headings, self.words, self.links, self.missing = [], [], [], [], 0

    def handle_starttag(self, tag, attrs):
        named = dict(attrs)
        self.links += [value for key, value in attrs if key in ("src", "href", "srcset", "data")]
        self.missing += named.get("class") == "missing"
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open[-1] == tag, f"</{tag}> where {self.open[-3:]} are open"
        self.open.pop()

    def handle_data(self, data):
        self.words.append(data)
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)


class Page(unittest.TestCase):
    def setUp(self):
        self.scratch = tempfile.TemporaryDirectory()
        self.addCleanup(self.scratch.cleanup)
        self.report = pathlib.Path(self.scratch.name) / "report"
        shutil.copytree(SAMPLE, self.report)

    def build(self):
        done = subprocess.run([sys.executable, BUILD, self.report], capture_output=True, text=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        elements = Elements()
        elements.feed(done.stdout)
        elements.close()
        self.assertEqual(elements.open, [])
        self.assertEqual(elements.links, [], "the page must need nothing else")
        self.assertNotRegex(done.stdout, r"url\(|@import|<script")
        self.assertNotRegex(done.stdout, r"\bnan\b|\binf\b|None|Traceback")
        drawings = re.findall(r"<svg.*?</svg>", done.stdout, re.DOTALL)
        for drawing in drawings:
            xml.etree.ElementTree.fromstring(drawing)
        self.assertGreaterEqual(len(elements.headings), SECTIONS - 1)
        return elements, drawings, done.stdout

    def test_shows_all_that_was_measured(self):
        elements, drawings, text = self.build()
        self.assertEqual(elements.missing, 0)
        self.assertGreaterEqual(len(drawings), 18)
        words = " ".join(elements.words)
        for wanted in ("plain verbs", "inproc", "shm", "boost-spsc_queue", "rsockets", "UCX over TCP", "99.9 %",
                       "Sum over all senders, 64 B", "A poll that finds nothing", "Kernel", "libibverbs-dev",
                       "bench/rdma_pairs"):
            self.assertIn(wanted, words)
        self.assertIn("prefers-color-scheme: dark", text)

    def test_has_a_way_to_read_each_figure_without_seeing_colours(self):
        _, drawings, _ = self.build()
        for drawing in drawings:
            self.assertIn("<title>", drawing)
            self.assertIn("aria-label", drawing)

    def test_says_what_is_missing_where_there_is_no_device(self):
        for part in ("rdma", "rdma-hosts", "peers", "senders/sum.json", "senders/idle-rdma.json"):
            path = self.report / part
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        elements, drawings, _ = self.build()
        self.assertIn("no RDMA device", " ".join(elements.words))
        self.assertEqual(elements.missing, 4)
        self.assertTrue(drawings)

    def test_says_who_is_not_installed(self):
        shutil.rmtree(self.report / "peers")
        elements, _, _ = self.build()
        self.assertIn("bench/peers/run", elements.words)

    def test_names_parts_that_failed(self):
        with open(self.report / "commands.tsv", "a", encoding="utf-8") as file:
            file.write("125\t3\trdma between two planets\ttests/softroce/run\n")
        elements, _, _ = self.build()
        self.assertIn("rdma between two planets", " ".join(elements.words))

    def test_an_empty_folder_makes_a_page(self):
        shutil.rmtree(self.report)
        self.report.mkdir()
        elements, drawings, _ = self.build()
        self.assertEqual(drawings, [])
        self.assertGreaterEqual(elements.missing, SECTIONS)

    def test_each_file_may_be_absent_or_broken(self):
        for path in sorted(self.report.rglob("*")):
            if path.is_dir():
                continue
            whole = path.read_bytes()
            for broken in (None, whole[: len(whole) // 2], b"{}"):
                with self.subTest(path=path.relative_to(self.report), broken=broken and broken[:16]):
                    path.unlink() if broken is None else path.write_bytes(broken)
                    self.build()
                    path.write_bytes(whole)

    def test_text_of_others_stays_text(self):
        path = self.report / "machine.json"
        facts = json.loads(path.read_text(encoding="utf-8"))
        facts["machine"]["CPU"] = "<b onclick=x>& co"
        path.write_text(json.dumps(facts), encoding="utf-8")
        _, _, text = self.build()
        self.assertNotIn("<b onclick", text)


class Peers(unittest.TestCase):
    def test_reads_what_each_program_says(self):
        with tempfile.TemporaryDirectory() as scratch:
            directory = pathlib.Path(scratch)
            for name, line in (
                    ("1-ib_write_bw-64.txt", "local address\n 64  20000  2.79  1.28  0.021047\n----\n"),
                    ("1-ib_write_bw-65536.txt", " 65536  1000  138.19  100.00  0.0014\n"),
                    ("1-ib_write_lat-64.txt", " 64 5000 9.42 11157.18 9.75 235.31 813.72 4019.52 8095.06\n"),
                    ("1-rstream-bw-65536.txt", "name bytes\ncustom    64k     1k   1  125m  4.34s  0.24  2000.00\n"),
                    ("1-ucx-tag_bw-64.txt", "| Test |\n   50000  15.0 22.4 25.2 2.72 2.42 44626 39660\n"),
                    ("1-ucx-tag_lat-64.txt", "   3000 22.000 102.4 751.8 0.60 0.08 9765 1330\n"),
                    ("absent.txt", "perftest\n")):
                (directory / name).write_text(line, encoding="utf-8")
            done = subprocess.run([sys.executable, PEERS, directory], capture_output=True, text=True, check=True)
            document = json.loads((directory / "peers.json").read_text(encoding="utf-8"))
        rows = {(row["name"], row["size"]): row for row in document["rows"]}
        self.assertAlmostEqual(rows["ib_write_bw, ib_write_lat", 64]["messages_per_s"], 21047)
        self.assertAlmostEqual(rows["ib_write_bw, ib_write_lat", 64]["p50_us"], 19.5)
        self.assertAlmostEqual(rows["ib_write_bw, ib_write_lat", 65536]["mb_per_s"], 104.8576)
        self.assertAlmostEqual(rows["rsockets (rstream)", 65536]["mb_per_s"], 32.768)
        self.assertAlmostEqual(rows["UCX over TCP", 64]["messages_per_s"], 39660)
        self.assertAlmostEqual(rows["UCX over TCP", 64]["p50_us"], 44)
        self.assertEqual(document["absent"], ["perftest"])
        self.assertIn("not installed: perftest", done.stdout)


if __name__ == "__main__":
    unittest.main()
