# mypy: ignore-errors
"""Renders CLEVR scenes inside Blender's Python; a script of its own, never imported by the library.

``python blender_worker.py JOB.json`` with Python 3.11, ``bpy`` 5.0.1 and numpy < 2. The job is what
:func:`objectwise.data.clevr_blender.render_clevr` writes: ``settings`` (its ``BlenderSettings``), ``assets``, ``out`` and
``indices``. Each image is written as ``CLEVR_N.png``, ``CLEVR_N_mask.png`` and last, as the sign that it is complete,
``CLEVR_N.json``. Lines on stdout that begin with ``@`` are JSON messages to the parent; the rest is Blender's chatter.
"""

import json
import math
import os
import random
import struct
import sys
import zlib
from pathlib import Path

import bpy
from mathutils import Vector

TRIES, RESTARTS = 50, 1000
LAMPS = ("Lamp_Key", "Lamp_Fill", "Lamp_Back")


def main():
    """Render every index of the job."""
    job = json.loads(Path(sys.argv[1]).read_text())
    settings, assets, out = job["settings"], Path(job["assets"]), Path(job["out"])
    properties = json.loads((assets / "properties.json").read_text())
    bpy.ops.wm.open_mainfile(filepath=str(assets / "base_scene.blend"))
    configure(settings)
    solids = {name: load(assets / "shapes", file, "objects") for name, file in properties["shapes"].items()}
    groups = {name: load(assets / "materials", file, "node_groups") for name, file in properties["materials"].items()}
    home = {name: bpy.data.objects[name].location.copy() for name in ("Camera", *LAMPS)}
    tell(bpy=bpy.app.version_string)
    for index in job["indices"]:
        draw = random.Random(f"objectwise clevr {settings['seed']} {index}")
        jitter(draw, home, settings)
        things, mask = arrange(draw, settings, properties, solids, groups)
        bpy.context.scene.cycles.seed = draw.getrandbits(31)
        save(out, f"CLEVR_{index:06d}", things, mask)
        for thing in things:
            bpy.data.objects.remove(thing["object"])
        for material in [m for m in bpy.data.materials if m.users == 0]:
            bpy.data.materials.remove(material)
        tell(done=index)


def tell(**message):
    """One line to the parent."""
    print("@" + json.dumps(message), flush=True)


def configure(settings):
    """Cycles on the CPU, with the job's resolution and quality."""
    scene = bpy.context.scene
    render, cycles = scene.render, scene.cycles
    render.engine, cycles.device = "CYCLES", "CPU"
    render.resolution_x, render.resolution_y = settings["resolution"]
    render.resolution_percentage = 100
    render.image_settings.file_format, render.image_settings.color_mode = "PNG", "RGB"
    render.use_persistent_data = True
    if settings["threads"]:
        render.threads_mode, render.threads = "FIXED", settings["threads"]
    cycles.samples, cycles.max_bounces = settings["samples"], settings["max_bounces"]
    cycles.blur_glossy, cycles.use_adaptive_sampling = settings["blur_glossy"], False
    cycles.use_denoising = settings["denoise"]
    if settings["denoise"]:
        cycles.denoiser, cycles.denoising_quality, cycles.denoising_prefilter = "OPENIMAGEDENOISE", "FAST", "FAST"
    top, left, height, width = settings["crop"]
    render.use_border = render.use_crop_to_border = True
    render.border_min_x, render.border_max_x = left / render.resolution_x, (left + width) / render.resolution_x
    render.border_max_y = 1 - top / render.resolution_y
    render.border_min_y = 1 - (top + height) / render.resolution_y


def load(folder, name, kind):
    """An object or node group of an asset file."""
    with bpy.data.libraries.load(str(folder / f"{name}.blend")) as (source, target):
        if name not in getattr(source, kind):
            raise RuntimeError(f"{folder / name}.blend has no {kind} called {name}")
        setattr(target, kind, [name])
    return getattr(target, kind)[0]


def jitter(draw, home, settings):
    """Move the camera and the lamps from where the base scene has them."""
    for name, place in home.items():
        reach = settings["camera_jitter"] if name == "Camera" else settings["lamp_jitter"]
        bpy.data.objects[name].location = place + Vector([draw.uniform(-reach, reach) for _ in range(3)])
    bpy.context.view_layer.update()


def arrange(draw, settings, properties, solids, groups):
    """Objects that keep CLEVR's law and all show enough pixels, and the mask; starts over until both hold."""
    camera = bpy.data.objects["Camera"].matrix_world.to_3x3()
    axes = [(camera @ Vector(axis)).to_2d().normalized() for axis in ((-1, 0, 0), (0, 0, -1))]
    number = draw.randint(*settings["objects"])
    for _ in range(RESTARTS):
        things = place(draw, settings, properties, axes, number)
        if things is None:
            continue
        for thing in things:
            thing["object"] = build(thing, properties, solids, groups)
        bpy.context.view_layer.update()
        mask = look(things, settings)
        for number_of, thing in enumerate(things, start=1):
            thing["visible_pixels"] = sum(row.count(number_of) for row in mask)
        if all(thing["visible_pixels"] >= settings["min_visible"] for thing in things):
            return things, mask
        for thing in things:
            bpy.data.objects.remove(thing["object"])
    raise RuntimeError(f"{number} objects cannot be placed and seen ({RESTARTS} restarts); ease objects or min_visible")


def place(draw, settings, properties, axes, number):
    """Factors of objects that are far enough apart, or None where one finds no place."""
    things = []
    for _ in range(number):
        size, radius = draw.choice(sorted(properties["sizes"].items()))
        shape = draw.choice(sorted(properties["shapes"]))
        if shape == "cube" and settings["shrink_cubes"]:
            radius /= math.sqrt(2)
        for _ in range(TRIES):
            spot = Vector([draw.uniform(-settings["spread"], settings["spread"]) for _ in range(2)])
            if all(apart(spot, radius, other, settings, axes) for other in things):
                break
        else:
            return None
        material, color = draw.choice(sorted(properties["materials"])), draw.choice(sorted(properties["colors"]))
        rotation = draw.uniform(0, 2 * math.pi)
        factors = {"shape": shape, "size": size, "material": material, "color": color, "rotation": rotation}
        things.append({**factors, "coords": [spot.x, spot.y, radius], "spot": spot, "radius": radius})
    return things


def apart(spot, radius, other, settings, axes):
    """Whether a place keeps the gap to another object, and the margin along the camera's left and depth."""
    offset = spot - other["spot"]
    clear = offset.length - radius - other["radius"] >= settings["gap"]
    return clear and all(abs(offset.dot(axis)) >= settings["margin"] for axis in axes)


def build(thing, properties, solids, groups):
    """A copy of the solid in the scene, with a material of its own."""
    body = solids[thing["shape"]].copy()
    bpy.context.scene.collection.objects.link(body)
    body.location, body.scale = thing["coords"], [thing["radius"]] * 3
    body.rotation_mode, body.rotation_euler = "XYZ", (0, 0, thing["rotation"])
    material = bpy.data.materials.new("objectwise")
    material.use_nodes = True
    nodes = material.node_tree.nodes
    nodes.clear()
    group, end = nodes.new("ShaderNodeGroup"), nodes.new("ShaderNodeOutputMaterial")
    group.node_tree = groups[thing["material"]]
    group.inputs["Color"].default_value = [*(value / 255 for value in properties["colors"][thing["color"]]), 1]
    material.node_tree.links.new(group.outputs["Shader"], end.inputs["Surface"])
    if not body.material_slots:
        body.data.materials.append(None)
    for slot in body.material_slots:
        slot.link, slot.material = "OBJECT", material
    return body


def look(things, settings):
    """The object number seen through each pixel's centre, 0 for none: H rows of W numbers."""
    scene, depsgraph = bpy.context.scene, bpy.context.evaluated_depsgraph_get()
    camera = bpy.data.objects["Camera"]
    origin, turn = camera.matrix_world.translation, camera.matrix_world.to_3x3()
    width, height = settings["resolution"]
    pixel = camera.data.sensor_width / camera.data.lens / max(width, height)
    numbers = {thing["object"].name: number for number, thing in enumerate(things, start=1)}
    top, left, rows, columns = settings["crop"]

    def seen(row, column):
        ray = turn @ Vector(((column + 0.5 - width / 2) * pixel, (height / 2 - row - 0.5) * pixel, -1.0))
        hit, _, _, _, body, _ = scene.ray_cast(depsgraph, origin, ray.normalized())
        return numbers.get(body.name, 0) if hit else 0

    return [[seen(row, column) for column in range(left, left + columns)] for row in range(top, top + rows)]


def save(out, stem, things, mask):
    """Render and write the three files, each complete before it has its name."""
    temporary = out / f".{stem}.{os.getpid()}.png"
    bpy.context.scene.render.filepath = str(temporary)
    bpy.ops.render.render(write_still=True)
    temporary.write_bytes(plain(temporary.read_bytes()))
    temporary.replace(out / f"{stem}.png")
    temporary.write_bytes(png(mask))
    temporary.replace(out / f"{stem}_mask.png")
    hidden = ("object", "spot", "radius")
    objects = [{name: value for name, value in thing.items() if name not in hidden} for thing in things]
    temporary = out / f".{stem}.{os.getpid()}.json"
    temporary.write_text(json.dumps({"objects": objects}))
    temporary.replace(out / f"{stem}.json")


def plain(data):
    """A PNG without its texts, which hold the date and the minutes it took: equal settings give equal bytes."""
    kept, start = [data[:8]], 8
    while start < len(data):
        end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
        if data[start + 4 : start + 8] not in (b"tEXt", b"zTXt", b"iTXt", b"tIME"):
            kept.append(data[start:end])
        start = end
    return b"".join(kept)


def png(rows):
    """An 8-bit grey PNG."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", len(rows[0]), len(rows), 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + bytes(row) for row in rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


if __name__ == "__main__":
    main()
