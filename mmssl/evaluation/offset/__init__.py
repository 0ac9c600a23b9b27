"""Does the sound of a video lag or lead its picture, by how much, and how sure is that?

Sign: an offset in ms is positive where the sound LEADS the picture (ITU-R BT.1359; SyncNet). Shift k in frames: the
picture at window t goes with the sound at window t + k, so a sound that lags by d frames has its best shift at +d, and
``offset_ms = -1000 * k / fps``.
"""
