#!/usr/bin/env python3
"""Draws docs/moments.svg: what Services select and what the route gives, from one rest to the next. Run it after a change; no packages needed."""

from pathlib import Path

V1, V2, INK, DIM, LINE = "#4c78a8", "#f58518", "#1b1f24", "#57606a", "#d0d7de"
COLUMN, LEFT, ROW = 132, 150, 62

# Title, note, what `service` selects, what `canaryService` selects, canary weight. `*`: pinned. None: the backend is not in the route.
ROLLOUT = [
    ("at rest", "as in Git", "v1", None, None),
    ("pinned", "same endpoints", "v1*", "v1*", None),
    ("entered", "backend at 0", "v1*", "v1*", 0),
    ("selected", "v2 ready, weight 0", "v1*", "v2*", 0),
    ("step 1", "judged", "v1*", "v2*", 20),
    ("step 2", "judged", "v1*", "v2*", 50),
    ("100 %", "all verdicts closed", "v1*", "v2*", 100),
    ("promoted", "v1 drained", "v2*", "v2*", 100),
    ("back home", "grace time", "v2*", "v2*", 0),
    ("at rest", "v1 stopped, as in Git", "v2", None, None),
]
ABORT = [
    ("step 2", "a verdict is Fail", "v1*", "v2*", 50),
    ("abort", "one write, at once", "v1*", "v2*", 0),
    ("drained", "after drainSeconds", "v1*", "v1*", 0),
    ("aborted", "v2 stopped, still pinned", "v1*", "v1*", 0),
]


def text(x, y, words, size=12, fill=INK, anchor="middle", weight="normal"):
    return f'<text x="{x}" y="{y}" font-size="{size}" fill="{fill}" text-anchor="{anchor}" font-weight="{weight}">{words}</text>'


def pods(x, y, selects):
    if selects is None:
        return text(x, y + 5, "–", 14, DIM)
    version, pinned = selects[:2], selects.endswith("*")
    fill = V1 if version == "v1" else V2
    dash = "" if pinned else ' stroke-dasharray="4 3"'
    box = f'<rect x="{x - 48}" y="{y - 15}" width="96" height="30" rx="6" fill="{fill}" fill-opacity="0.18" stroke="{fill}" stroke-width="1.5"{dash}/>'
    return box + text(x, y + 5, f"pods of {version}", 12, INK)


def share(x, y, canary, stable_is, canary_is):
    width = COLUMN - 32
    left = x - width / 2
    fills = [V1 if who == "v1" else V2 for who in (stable_is, canary_is or stable_is)]
    part = width * (canary or 0) / 100
    out = f'<rect x="{left}" y="{y - 10}" width="{width}" height="20" fill="{fills[0]}"/>'
    if part:
        out += f'<rect x="{left + width - part}" y="{y - 10}" width="{part}" height="20" fill="{fills[1]}"/>'
    label = "as in Git" if canary is None else f"{100 - canary} : {canary}"
    return out + text(x, y + 26, label, 12, DIM)


def strip(moments, top, title):
    out = [text(16, top, title, 15, anchor="start", weight="bold")]
    for name, dy in (("service selects", 80), ("canaryService", 80 + ROW), ("weights (service :", 80 + 2 * ROW)):
        out.append(text(16, top + dy, name, 12, DIM, "start"))
    out.append(text(16, top + 80 + ROW + 15, "selects", 12, DIM, "start"))
    out.append(text(16, top + 80 + 2 * ROW + 15, "canaryService)", 12, DIM, "start"))
    for at, (name, note, service, canary_service, weight) in enumerate(moments):
        x = LEFT + COLUMN * at + COLUMN / 2
        if at:
            out.append(f'<line x1="{x - COLUMN / 2}" y1="{top + 18}" x2="{x - COLUMN / 2}" y2="{top + 80 + 2 * ROW + 34}" stroke="{LINE}"/>')
        out.append(text(x, top + 30, name, 13, weight="bold"))
        out.append(text(x, top + 46, note, 9.5, DIM))
        out.append(pods(x, top + 76, service))
        out.append(pods(x, top + 76 + ROW, canary_service))
        out.append(share(x, top + 76 + 2 * ROW, weight, service[:2], canary_service and canary_service[:2]))
    return out


def main():
    width, height = LEFT + COLUMN * len(ROLLOUT) + 16, 560
    body = [f'<rect width="{width}" height="{height}" fill="#ffffff"/>']
    body += strip(ROLLOUT, 30, "A version that is promoted")
    body += strip(ABORT, 290, "A version that is taken back")
    x, y = LEFT + COLUMN * 5 + 30, 340
    for at, (draw, words) in enumerate([
        (pods(x + 48, y, "v1*"), "pinned: the Service also selects the revision's hash"),
        (pods(x + 48, y + 44, "v1"), "as in Git: the Service selects what its author wrote"),
        (share(x + 48, y + 88, None, "v1", None).split("<text")[0], "who answers the requests: v1 blue, v2 orange"),
    ]):
        body.append(draw + text(x + 112, y + 44 * at + 5, words, 12, INK, "start"))
    body.append(text(x, y + 140, "Between any two moments Sluice waits until the first is observed:", 12, DIM, "start"))
    body.append(text(x, y + 158, "endpoints published, route accepted by its gateway, grace or drain time over.", 12, DIM, "start"))
    svg = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="Helvetica, Arial, sans-serif" role="img" aria-label="What the Services select and what the route gives, moment by moment">\n'
    Path(__file__).with_suffix(".svg").write_text(svg + "\n".join(body) + "\n</svg>\n")


if __name__ == "__main__":
    main()
