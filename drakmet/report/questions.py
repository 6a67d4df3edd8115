# SPDX-License-Identifier: GPL-2.0-or-later
"""Questions to a file that are asked again and again: what ``drakmet serve`` offers beside the tables."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Question:
    """A query with its name, what it tells, and the tables that it needs."""

    name: str
    title: str
    tables: tuple[str, ...]
    sql: str


QUESTIONS = (
    Question(
        "findings_with_rows",
        "Findings, the gravest first, with each row that they rest on",
        ("finding", "process"),
        """
        SELECT f.level, f.rule, f.message, utc(f.time) AS seen, coalesce(f.coverage, 'not known') AS coverage,
               coalesce(p.exe, p.comm) AS process, p.pid,
               json_extract(r.value, '$[0]') AS row_of, json_extract(r.value, '$[1]') AS row_id
        FROM finding AS f LEFT JOIN process AS p ON p.id = f.process
        LEFT JOIN json_each(CASE WHEN json_valid(f.rests_on) THEN f.rests_on ELSE '[]' END) AS r
        ORDER BY CASE f.level WHEN 'critical' THEN 0 WHEN 'high' THEN 1 WHEN 'medium' THEN 2 WHEN 'low' THEN 3
                 ELSE 4 END, f.time, f.id
        """,
    ),
    Question(
        "process_tree",
        "Who started whom, each process below its parent; a pid that is used again is another process. "
        "Without a depth: deeper than 60, or in a circle",
        ("process",),
        """
        WITH RECURSIVE life AS (
            SELECT min(id) AS id, session, pid, start_time, max(ppid) AS ppid, coalesce(exe, comm) AS program, uid,
                   max(life) AS life, max(parent) AS parent
            FROM process AS one
            -- A thread's own start is not its process's: where the process itself was seen, its threads are left out.
            WHERE tid IS pid OR tid IS NULL OR start_time IS NULL OR NOT EXISTS (
                SELECT 1 FROM process AS p WHERE p.pid = one.pid AND p.session = one.session AND p.tid = p.pid)
            GROUP BY session, pid, coalesce(start_time, life, id)
        ), linked AS (
            SELECT c.*, CASE WHEN c.life IS NOT NULL THEN c.parent ELSE (
                SELECT p.id FROM life AS p WHERE p.session = c.session AND p.pid = c.ppid AND p.pid <> c.pid
                AND (c.start_time IS NULL OR p.start_time <= c.start_time) ORDER BY p.start_time DESC LIMIT 1
            ) END AS above
            FROM life AS c
        ), tree AS (
            SELECT id, session, pid, uid, program, 0 AS depth, printf('%012d', id) AS place
            FROM linked WHERE above IS NULL OR above NOT IN (SELECT id FROM linked)
            UNION ALL
            SELECT c.id, c.session, c.pid, c.uid, c.program, t.depth + 1, t.place || printf('%012d', c.id)
            FROM linked AS c JOIN tree AS t ON c.above = t.id WHERE t.depth < 60
        )
        -- A guest may start a chain of any length, and its memory name parents in a circle: none is left out for that.
        SELECT session,
               substr('                              ', 1, coalesce(depth, 0)) || coalesce(program, '?') AS process,
               pid, uid, depth, id FROM (
            SELECT * FROM tree
            UNION ALL SELECT id, session, pid, uid, program, NULL, '~' FROM linked WHERE id NOT IN (SELECT id FROM tree)
        ) ORDER BY session, place, id
        """,
    ),
    Question(
        "execs",
        "Programs that were started, with their arguments, by whom, and where",
        ("process_start", "process"),
        """
        SELECT utc(s.time) AS time, s.path, argv_text(s.argv) AS arguments, s.cwd, s.pid, s.uid, s.euid,
               coalesce(p.exe, p.comm) AS started_by, s.script, s.session, s.id
        FROM process_start AS s LEFT JOIN process AS p ON p.id = s.process ORDER BY s.time, s.id
        """,
    ),
    Question(
        "running",
        "Programs that ran already, with their arguments",
        ("process_running", "process"),
        """
        SELECT coalesce(r.path, p.exe) AS path, argv_text(r.argv) AS arguments, r.cwd, r.pid, p.uid, p.container,
               r.deleted, r.memfd, r.session, r.id
        FROM process_running AS r LEFT JOIN process AS p ON p.id = r.process ORDER BY r.session, r.pid
        """,
    ),
    Question(
        "connects_by_process",
        "Where each program connected to, or tried to, how often, and how often that failed at once",
        ("net_connect", "process"),
        """
        SELECT coalesce(p.exe, p.comm) AS process, c.protocol, c.address, c.port, count(*) AS times,
               sum(c.result < 0 AND c.result <> -115) AS failed, utc(min(c.time)) AS first, utc(max(c.time)) AS last
        FROM net_connect AS c LEFT JOIN process AS p ON p.id = c.process WHERE c.family IN ('inet', 'inet6')
        GROUP BY 1, 2, 3, 4 ORDER BY times DESC
        """,
    ),
    Question(
        "names_asked",
        "Which DNS names each program asked for",
        ("dns_query", "process"),
        """
        SELECT coalesce(p.exe, p.comm) AS process, q.name, q.qtype, count(*) AS times, utc(min(q.time)) AS first
        FROM dns_query AS q LEFT JOIN process AS p ON p.id = q.process GROUP BY 1, 2, 3 ORDER BY times DESC
        """,
    ),
    Question(
        "files_written",
        "Files that were written, by whom",
        ("file_write", "process"),
        """
        SELECT coalesce(p.exe, p.comm) AS process, p.uid, w.path, count(*) AS times, utc(min(w.time)) AS first
        FROM file_write AS w LEFT JOIN process AS p ON p.id = w.process GROUP BY 1, 2, 3 ORDER BY first
        """,
    ),
    Question(
        "listening",
        "Sockets that waited for others when the guest was scanned, with their processes",
        ("open_socket", "process"),
        """
        SELECT s.protocol, s.local_address, s.local_port, s.path, coalesce(p.exe, p.comm) AS process, p.pid, p.uid,
               s.session
        FROM open_socket AS s LEFT JOIN process AS p ON p.id = s.process
        WHERE s.state = 'listen' ORDER BY s.session, s.local_port, s.path
        """,
    ),
    Question(
        "coverage_gaps",
        "What was not seen, when, and why",
        ("coverage",),
        """
        SELECT session, plugin, trap, kind, gap AS reason, missed, utc(begin) AS begin, utc(end) AS end,
               round((end - begin) / 1e9, 3) AS seconds, tables
        FROM coverage WHERE gap IS NOT NULL OR missed ORDER BY session, plugin, trap, begin
        """,
    ),
    Question(
        "sessions",
        "The runs: which guest on which host, when, and how they ended",
        ("session", "guest", "host"),
        """
        SELECT s.id, h.name AS host, g.name AS guest, g.os, g.kernel, s.source, utc(s.begin) AS begin,
               utc(s.end) AS end, s.outcome, s.paused_attach / 1e6 AS paused_ms
        FROM session AS s JOIN guest AS g ON g.id = s.guest LEFT JOIN host AS h ON h.id = g.host ORDER BY s.id
        """,
    ),
)
