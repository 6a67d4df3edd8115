# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules in Sigma's format, made rules of our own.

pySigma (LGPL-2.1, the extra ``sigma``) reads them; `parse` makes a `tree` of conditions of what it read, `fields` says
what our records have of a log source, `sql` writes the condition in SQL, `events` and `rows` make the tests that every
rule carries, out of the condition, and `match` says without SQL what these must find.

What an imported rule finds is true by the Sigma rule as well: where our records lack a field, it finds less than its
author meant, and says so.
"""
