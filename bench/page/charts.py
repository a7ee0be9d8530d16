"""Charts as SVG, without anything but the standard library.

Colours are CSS classes (style.css), so that one drawing serves a light and a dark page. Marks carry
a <title>, which browsers show on hovering.
"""
import html
import math

WIDTH, HEIGHT = 560, 300
LEFT, RIGHT, TOP, BOTTOM = 58, 122, 12, 42
LABEL_GAP = 15


def text(value):
    return html.escape(str(value), quote=True)


def short(value):
    """1536244 as 1.54 M: three digits and a unit."""
    if value == 0:
        return "0"
    for factor, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= factor * 0.9995:
            return digits(value / factor) + unit
    return digits(value)


def digits(value):
    """Three digits that count."""
    places = max(0, 2 - math.floor(math.log10(abs(value)))) if value else 0
    shown = f"{value:.{min(places, 3)}f}"
    return shown.rstrip("0").rstrip(".") if "." in shown else shown


def size_name(size):
    for factor, unit in ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")):
        if size >= factor and size % factor == 0:
            return f"{size // factor} {unit}"
    return f"{size} B"


class Log:
    """A logarithmic scale, between round numbers: ticks at 1, 2 and 5, or at powers of ten."""

    def __init__(self, values):
        values = [value for value in values if value > 0]
        powers = range(math.floor(math.log10(min(values))), math.ceil(math.log10(max(values))) + 1)
        round_ones = [factor * 10.0 ** power for power in powers for factor in (1, 2, 5)]
        low = max(value for value in round_ones if value <= min(values) * (1 + 1e-9))
        high = min(value for value in round_ones if value > low and value >= max(values) * (1 - 1e-9))
        self.low, self.high = math.log10(low), math.log10(high)
        self.shown = [value for value in round_ones if low <= value <= high]
        if len(self.shown) > 7:
            tens = [10.0 ** power for power in powers if low <= 10.0 ** power <= high]
            self.shown = tens[::math.ceil(len(tens) / 7)]

    def part(self, value):
        return (math.log10(value) - self.low) / (self.high - self.low)

    def ticks(self):
        return self.shown


class Linear:
    """From zero to a round number."""

    def __init__(self, values):
        most = max(values) or 1
        step = 10.0 ** math.floor(math.log10(most))
        self.step = next(step * f for f in (0.2, 0.25, 0.5, 1, 2) if most / (step * f) <= 6)
        self.high = math.ceil(most / self.step - 1e-9) * self.step

    def part(self, value):
        return value / self.high

    def ticks(self):
        return [self.step * i for i in range(round(self.high / self.step) + 1)]


class Series:
    """Points are (x, y) or (x, y, what a hovering reader is told besides)."""

    def __init__(self, name, kind, points):
        self.name, self.kind, self.points = name, kind, sorted(points)


def spread(wanted, low, high):
    """Label positions as near as may be to those wanted, LABEL_GAP apart, in the same order."""
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    placed = []
    for i in order:
        placed.append(max(wanted[i], placed[-1] + LABEL_GAP if placed else low))
    for back in range(len(placed) - 1, -1, -1):
        limit = high if back == len(placed) - 1 else placed[back + 1] - LABEL_GAP
        placed[back] = min(placed[back], limit)
    out = [0.0] * len(wanted)
    for position, i in zip(placed, order):
        out[i] = position
    return out


def lines(title, unit, series, x_ticks, y_scale, x_position=math.log2, x_title="", note=""):
    """A figure of lines. x_ticks: (x, label) of the axis, whose ends are the first and the last."""
    series = [each for each in series if each.points]
    scale = y_scale([point[1] for each in series for point in each.points])
    first, last = x_position(x_ticks[0][0]), x_position(x_ticks[-1][0])
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def at_x(x):
        return LEFT + (right - LEFT) * (x_position(x) - first) / ((last - first) or 1)

    def at_y(y):
        return bottom - (bottom - TOP) * min(max(scale.part(y), 0), 1)

    out = []
    for tick in scale.ticks():
        y = at_y(tick)
        out.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        out.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{short(tick)}</text>')
    out.append(f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>')
    for x, label in x_ticks:
        out.append(f'<text class="tick" x="{at_x(x):.1f}" y="{bottom + 17}" text-anchor="middle">{text(label)}</text>')
    if x_title:
        out.append(f'<text class="tick" x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" '
                   f'text-anchor="middle">{text(x_title)}</text>')
    # Penstock's own lines are drawn last, over those that they are compared with.
    for each in sorted(series, key=lambda s: s.kind.startswith("p")):
        path = " ".join(f"{at_x(p[0]):.1f},{at_y(p[1]):.1f}" for p in each.points)
        out.append(f'<polyline class="line {each.kind}" points="{path}"/>')
        for point in each.points:
            extra = f" ({point[2]})" if len(point) > 2 else ""
            label = next((l for x, l in x_ticks if x == point[0]), digits(point[0]))
            hint = f"{each.name}, {label}: {short(point[1])} {unit}{extra}"
            out.append(f'<g class="mark {each.kind}"><circle class="hit" cx="{at_x(point[0]):.1f}" '
                       f'cy="{at_y(point[1]):.1f}" r="10"/><circle class="dot" cx="{at_x(point[0]):.1f}" '
                       f'cy="{at_y(point[1]):.1f}" r="3"/><title>{text(hint)}</title></g>')
    ends = [each.points[-1] for each in series]
    labels = spread([at_y(end[1]) for end in ends], TOP + 6, bottom - 4)
    for each, end, y in zip(series, ends, labels):
        x = right + 16
        out.append(f'<polyline class="leader" points="{at_x(end[0]) + 4:.1f},{at_y(end[1]):.1f} '
                   f'{right + 8:.1f},{y:.1f} {x - 3:.1f},{y:.1f}"/>')
        out.append(f'<text class="name {each.kind}" x="{x}" y="{y + 4:.1f}">{text(each.name)}</text>')
    return figure(title, unit, WIDTH, HEIGHT, out, note)


def bars(title, unit, rows, note="", shown=short):
    """A figure of horizontal bars, from zero. rows: (name, value, kind[, hint])."""
    height, gap, left, right = 20, 8, 190, 74
    most = max(row[1] for row in rows)
    total = len(rows) * (height + gap) + 6
    out = [f'<line class="axis" x1="{left}" x2="{left}" y1="0" y2="{total}"/>']
    for i, (name, value, kind, *hint) in enumerate(rows):
        y = 4 + i * (height + gap)
        width = max((WIDTH - left - right) * value / most, 1.5)
        told = f"{name}: {shown(value)} {unit}" + (f" ({hint[0]})" if hint else "")
        strong = " own" if kind.startswith("p") else ""
        out.append(f'<g class="mark {kind}"><title>{text(told)}</title>'
                   f'<text class="bar-name{strong}" x="{left - 10}" y="{y + 14.5}" text-anchor="end">{text(name)}</text>'
                   f'<path class="bar" d="M{left},{y}h{max(width - 3, 0):.1f}q3,0 3,3v{height - 6}q0,3 -3,3h-{max(width - 3, 0):.1f}z"/>'
                   f'<text class="bar-value{strong}" x="{left + width + 7:.1f}" y="{y + 14.5}">{text(shown(value))}</text></g>')
    return figure(title, unit, WIDTH, total, out, note)


def figure(title, unit, width, height, parts, note):
    caption = f'<span class="unit">{text(unit)}</span>' if unit else ""
    tail = f'<p class="note">{note}</p>' if note else ""
    return (f'<figure><figcaption>{text(title)} {caption}</figcaption>'
            f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{text(title)}, {text(unit)}">'
            + "".join(parts) + f"</svg>{tail}</figure>")
