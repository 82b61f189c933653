"""The picture of a census, drawn with matplotlib: a map of the modules, and two charts beside it."""

from collections.abc import Iterator

from _rows import Row
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

INK, PALE = "#22303c", "#6b7885"
HEAT = LinearSegmentedColormap.from_list("heat", ["#e9eef0", "#a9cdd0", "#f3c777", "#e07a45", "#a8323a"])
HOTTEST = 60  # complexity per 100 lines of code
LINES = "#3b6e8f", "#7fb0b8", "#f3c777", "#dde3e7"  # code, docstrings, comments, blank
Tile = tuple[Row, float, float, float, float]  # a row, and its x, y, width and height


def draw(rows: list[Row], total: dict[str, int]) -> Figure:
    """Draw it: 1600 x 1000 pixels."""
    rows = sorted((row for row in rows if row["code"]), key=lambda row: -row["code"])
    figure = Figure(figsize=(16, 10), dpi=100, facecolor="white")
    title = f"The standard library of Python {rows[0]['python']}"
    figure.text(0.025, 0.935, title, size=27, weight="bold", color=INK)
    facts = "{modules} modules   ·   {files:,} files   ·   {lines:,} lines   ·   {functions:,} functions"
    figure.text(0.025, 0.897, facts.format(**total), size=15, color=PALE)
    draw_map(figure, rows)
    draw_legend(figure)
    draw_hardest(figure, rows)
    draw_lines(figure, total)
    return figure


def tiles(rows: list[Row], x: float, y: float, width: float, height: float) -> Iterator[Tile]:
    """Cut a rectangle into one tile for each row, by its code: halve the rows, cut the longer side, repeat."""
    if len(rows) == 1:
        yield rows[0], x, y, width, height
        return
    total = sum(row["code"] for row in rows)
    cut, first = 1, rows[0]["code"]
    while cut < len(rows) - 1 and first + rows[cut]["code"] <= total / 2:
        first += rows[cut]["code"]
        cut += 1
    share = first / total
    if width >= height:
        yield from tiles(rows[:cut], x, y, width * share, height)
        yield from tiles(rows[cut:], x + width * share, y, width * (1 - share), height)
    else:
        yield from tiles(rows[:cut], x, y, width, height * share)
        yield from tiles(rows[cut:], x, y + height * share, width, height * (1 - share))


def draw_map(figure: Figure, rows: list[Row]) -> None:
    """Draw every module as a tile: its area is its code, its colour how hard the code is to follow."""
    axes = figure.add_axes((0.025, 0.03, 0.655, 0.84), xlim=(0, 1048), ylim=(840, 0))
    axes.axis("off")
    for row, x, y, width, height in tiles(rows, 0, 0, 1048, 840):
        heat = min(1.0, 100 * row["complexity"] / row["code"] / HOTTEST)
        axes.add_patch(Rectangle((x, y), width, height, facecolor=HEAT(heat), edgecolor="white", linewidth=1.5))
        colour = "white" if heat > 0.75 else INK
        lying, standing = label_size(row["module"], width, height), label_size(row["module"], height, width)
        turned = 90 if lying < min(8, standing) else 0
        size = standing if turned else lying
        if size >= 6.5:  # below that nobody can read it
            label = {"size": size, "color": colour, "rotation": turned}
            axes.text(x + width / 2, y + height / 2, row["module"], ha="center", va="center", **label)


def label_size(name: str, width: float, height: float) -> float:
    """Find the font size that suits a tile, and fits in."""
    return min(24.0, max(8.0, 0.14 * (width * height) ** 0.5), 1.1 * width / (len(name) + 0.5), height / 2)


def draw_legend(figure: Figure) -> None:
    """Say what the area and the colour of a tile mean."""
    figure.text(0.715, 0.945, "Area: lines of code", size=12, color=INK)
    figure.text(0.715, 0.915, "Colour: complexity per 100 lines of code", size=12, color=INK)
    axes = figure.add_axes((0.715, 0.885, 0.26, 0.015), yticks=[], xticks=range(0, HOTTEST + 1, 10))
    axes.imshow([range(100)], cmap=HEAT, aspect="auto", extent=(0, HOTTEST, 0, 1))
    axes.tick_params(length=0, labelsize=10, labelcolor=PALE)
    axes.spines[:].set_visible(False)


def draw_hardest(figure: Figure, rows: list[Row]) -> None:
    """Draw the functions that are hardest to follow, as bars."""
    hardest = sorted((score, name, row["module"]) for row in rows for score, name, *_ in row["hardest"])[-14:]
    scores = [score for score, _, _ in hardest]
    figure.text(0.715, 0.805, "Hardest functions to follow", size=16, weight="bold", color=INK)
    axes = figure.add_axes((0.715, 0.17, 0.26, 0.62), xlim=(0, max(scores, default=1) * 1.12))
    axes.axis("off")
    axes.barh(range(len(scores)), scores, height=0.28, color=HEAT(1.0))
    for y, (score, name, module) in enumerate(hardest):
        axes.text(0, y + 0.3, f"{module}: {name}", size=10.5, color=INK)
        axes.text(score, y, f" {score}", size=10.5, color=PALE, va="center")


def draw_lines(figure: Figure, total: dict[str, int]) -> None:
    """Draw what the lines are, as one long bar."""
    figure.text(0.715, 0.12, "What the lines are", size=16, weight="bold", color=INK)
    axes = figure.add_axes((0.715, 0.03, 0.26, 0.075), xlim=(0, 1), ylim=(0, 1))
    axes.axis("off")
    blank = total["lines"] - total["code"] - total["docstrings"] - total["comments"]
    parts = {"code": total["code"], "docs": total["docstrings"], "comments": total["comments"], "blank": blank}
    left = 0.0
    for (name, lines), colour, x in zip(parts.items(), LINES, (0, 0.235, 0.465, 0.77), strict=True):
        share = lines / total["lines"]
        axes.barh(0.75, share, left=left, height=0.5, color=colour)
        axes.text(x, 0.1, "\N{BLACK SQUARE}", size=12, color=colour)
        axes.text(x + 0.04, 0.1, f"{share:.0%} {name}", size=10.5, color=INK)
        left += share
