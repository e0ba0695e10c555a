"""Digits as strokes of a pen, written in 25 ways, for the page on which digits are drawn.

Points were set by hand; curves go through them. With a generator of random numbers a drawing is turned, slanted,
stretched, and its points are moved a little, as by another hand.
"""

import numpy as np

# For each digit its ways of writing: strokes with "/" between them, "~" before a curve, points in hundredths of it
_WAYS = {
    0: [
        "~ 52,5 25,15 12,50 25,88 50,96 76,85 87,50 75,15 52,5",
        "~ 60,8 35,10 20,45 28,90 55,93 78,60 78,25 50,6",
    ],
    1: [
        "50,5 50,95",
        "30,30 52,6 52,95",
        "30,28 50,6 50,94 / 28,95 72,95",
        "62,5 42,95",
    ],
    2: [
        "~ 20,25 35,7 62,7 76,25 65,50 40,75 18,94 / 18,94 84,93",
        "~ 18,30 30,10 60,6 75,28 55,60 30,85 20,90 30,78 45,85 65,95 85,85",
    ],
    3: [
        "~ 20,15 45,5 72,15 70,36 42,48 / ~ 42,48 75,58 78,82 50,96 18,86",
        "~ 20,10 55,5 75,22 60,42 40,47 65,52 80,72 60,93 20,92",
    ],
    4: [
        "62,5 15,62 88,62 / 65,35 65,96",
        "~ 22,6 20,35 30,52 55,52 75,45 / 76,5 72,96",
        "25,5 20,50 80,50 / 72,8 70,95",
    ],
    5: [
        "78,6 30,7 26,45 / ~ 26,45 50,38 78,55 72,85 45,96 18,86",
        "30,8 27,42 / ~ 27,42 55,40 75,62 65,90 20,93 / 30,8 78,6",
    ],
    6: [
        "~ 68,6 42,20 24,50 24,80 45,96 70,85 72,62 50,52 27,68",
        "~ 45,5 30,35 22,70 38,95 65,92 75,72 60,58 38,64 26,80",
    ],
    7: [
        "15,10 82,8 42,95",
        "~ 15,15 40,10 80,10 / ~ 80,10 60,40 45,95",
        "15,10 80,8 42,95 / 30,50 75,48",
    ],
    8: [
        "~ 72,20 50,5 27,18 35,40 62,56 75,78 50,96 25,80 36,56 65,38 72,20",
        "~ 50,50 28,30 35,10 60,6 72,25 50,48 25,70 35,93 62,94 75,75 50,50",
    ],
    9: [
        "~ 70,22 50,6 27,20 30,42 52,48 70,30 72,22 / 72,20 66,96",
        "~ 72,15 45,6 25,25 35,45 60,42 73,15 72,50 62,85 40,96",
        "~ 70,15 45,8 26,28 40,46 65,36 72,12 / 72,12 55,95",
    ],
}
N_WAYS = {digit: len(ways) for digit, ways in _WAYS.items()}
_BETWEEN = 8  # points between two given ones of a curve


def drawing(digit, way=0, random=None):
    """Return the strokes [x, y, x, y, ...] of a digit, in the middle of a canvas from 0 to 1."""
    transform = np.eye(2)
    if random is not None:
        angle, slant, stretch = random.uniform((-0.17, -0.15, 0.65), (0.17, 0.3, 1.1))
        turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        transform = turn @ np.array([[stretch, -slant], [0, 1]])
    strokes = []
    for stroke in _WAYS[digit][way].split("/"):
        pairs = [pair.split(",") for pair in stroke.replace("~", "").split()]
        points = np.array(pairs, float) / 100
        if random is not None:
            points = points + random.normal(0, 0.018, points.shape)
        points = curve(points) if "~" in stroke else points
        strokes.append(np.round((points - 0.5) @ transform.T * 0.6 + 0.5, 3).ravel().tolist())
    return strokes


def curve(points):
    """Return points of the Catmull-Rom spline through the given ones."""
    padded = np.vstack([2 * points[0] - points[1], points, 2 * points[-1] - points[-2]])
    t = (np.arange(_BETWEEN) / _BETWEEN)[:, None]
    parts = []
    for a, b, c, d in zip(padded, padded[1:], padded[2:], padded[3:]):
        parts.append(0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3))
    return np.vstack([*parts, points[-1]])
