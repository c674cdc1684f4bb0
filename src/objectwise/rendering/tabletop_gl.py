"""Meshes on the table by OpenGL without a window (moderngl, EGL): the same pictures as numba's, from another black box.

A batch is one picture, an atlas of tiles, drawn by one call for the ground and one per kind; that is what makes it fast on a
software rasteriser too. Imported only when it is used.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from objectwise.core import UserError
from objectwise.rendering.meshes import MESHES
from objectwise.rendering.tabletop import AMBIENT, LIGHT, TableScene, TabletopConfig, camera_frame, kind_colors

TILES = 256
"""Scenes drawn at once."""
NEAR, FAR = 0.1, 100.0

_CAMERA = """
in vec2 tile; in vec3 eye; in vec3 right; in vec3 up; in vec3 forward;
uniform vec2 half_tile; uniform vec2 tangents;
vec2 middle() { return vec2(-1.0, 1.0) + half_tile * vec2(2.0 * tile.x + 1.0, -2.0 * tile.y - 1.0); }
"""
_OBJECT_VERTEX = (
    "#version 330\nin vec3 at; in vec3 normal; in vec4 pose; in vec3 paint;\n"
    + _CAMERA
    + """
uniform vec3 light; uniform float ambient; uniform vec2 planes; uniform vec2 tile_pixels; uniform float atlas_height;
out float shade; flat out vec3 color; flat out vec4 bounds;
void main() {
  float c = cos(pose.z), s = sin(pose.z);
  vec3 n = vec3(c * normal.x - s * normal.y, s * normal.x + c * normal.y, normal.z);
  vec3 p = pose.w * at;
  vec3 world = vec3(pose.x + c * p.x - s * p.y, pose.y + s * p.x + c * p.y, p.z + pose.w) - eye;
  float ahead = dot(world, forward);
  vec2 place = vec2(dot(world, right), dot(world, up)) / tangents;
  float z = ahead * (planes.y + planes.x) / (planes.y - planes.x) - 2.0 * planes.y * planes.x / (planes.y - planes.x);
  gl_Position = vec4(middle() * ahead + half_tile * place, z, ahead);
  shade = ambient + (1.0 - ambient) * max(dot(n, light), 0.0);
  color = paint;
  bounds = vec4(tile.x * tile_pixels.x, atlas_height - (tile.y + 1.0) * tile_pixels.y, 0.0, 0.0);
  bounds.zw = bounds.xy + tile_pixels;
}"""
)
_OBJECT_FRAGMENT = """#version 330
in float shade; flat in vec3 color; flat in vec4 bounds; out vec4 result;
void main() {
  if (any(lessThan(gl_FragCoord.xy, bounds.xy)) || any(greaterThan(gl_FragCoord.xy, bounds.zw))) discard;
  result = vec4(shade * color, 1.0);
}"""
_GROUND_VERTEX = (
    "#version 330\nin vec2 corner;\n"
    + _CAMERA
    + """
out vec3 ray; flat out vec3 start;
void main() {
  gl_Position = vec4(middle() + half_tile * corner, 0.999999, 1.0);
  ray = forward + corner.x * tangents.x * right + corner.y * tangents.y * up;
  start = eye;
}"""
)
_GROUND_FRAGMENT = """#version 330
in vec3 ray; flat in vec3 start; uniform float table; uniform vec3 table_color; uniform vec3 floor_color; out vec4 result;
void main() {
  vec2 p = start.xy - start.z / min(ray.z, -1e-9) * ray.xy;
  bool on = ray.z < -1e-9 && abs(p.x) <= table && abs(p.y) <= table;
  result = vec4(on ? table_color : floor_color, 1.0);
}"""


class MeshAtlas:
    """A :class:`~objectwise.rendering.tabletop.Renderer` of meshes.

    Args:
        config: with family ``tableware``.

    Raises:
        UserError: without moderngl, or where EGL gives no context.
    """

    def __init__(self, config: TabletopConfig) -> None:
        try:
            import moderngl
        except ImportError:
            raise UserError("backend 'moderngl' needs the package moderngl; pip install 'objectwise[gl]'") from None
        try:
            create: Any = moderngl.create_context  # its stubs do not know of backends by name
            self.context: Any = create(standalone=True, backend="egl")
        except Exception as error:
            raise UserError(f"OpenGL without a window (EGL) does not work here: {error}; use backend 'numba'") from None
        self.config = config
        self.columns = math.isqrt(TILES)
        self.tile = (config.width * config.samples, config.height * config.samples)
        size = (self.columns * self.tile[0], self.columns * self.tile[1])
        context = self.context
        self.target = context.framebuffer([context.texture(size, 4, dtype="f4")], context.depth_texture(size))
        self.objects = context.program(vertex_shader=_OBJECT_VERTEX, fragment_shader=_OBJECT_FRAGMENT)
        self.ground = context.program(vertex_shader=_GROUND_VERTEX, fragment_shader=_GROUND_FRAGMENT)
        short = min(config.height, config.width)
        for program in (self.objects, self.ground):
            program["half_tile"] = (1.0 / self.columns, 1.0 / self.columns)
            program["tangents"] = (config.tangent * config.width / short, config.tangent * config.height / short)
        self.objects["tile_pixels"], self.objects["atlas_height"] = self.tile, float(size[1])
        self.objects["light"], self.objects["ambient"], self.objects["planes"] = LIGHT, AMBIENT, (NEAR, FAR)
        colors, ground = kind_colors(config)
        self.colors = colors.expand(-1, 3).float().numpy()
        self.ground["table"] = config.table
        self.ground["table_color"], self.ground["floor_color"] = (tuple(row.expand(3).tolist()) for row in ground)
        self.meshes = [self._buffers(kind.solid) for kind in config.kinds]
        self.corners = context.buffer(np.array([[-1, -1], [1, -1], [-1, 1], [1, 1]], np.float32))

    def __call__(self, scene: TableScene) -> Tensor:
        """(B, C, H, W) images in [0, 1], on the CPU in the dtype of the poses; at most single precision."""
        scene = TableScene(*(part.detach().cpu() for part in scene))
        parts = [self._draw(scene.rows(slice(start, start + TILES))) for start in range(0, len(scene.kind), TILES)]
        images = np.concatenate(parts) if parts else np.zeros((0, 3, self.config.height, self.config.width), np.float32)
        return torch.from_numpy(images[:, : self.config.channels]).to(scene.pose.dtype)

    def _buffers(self, name: str) -> tuple[Any, Any]:
        mesh = MESHES[name]()
        vertices = np.concatenate([mesh.vertices, mesh.normals], axis=1).astype(np.float32)
        return self.context.buffer(vertices), self.context.buffer(mesh.faces.astype(np.int32))

    def _draw(self, scene: TableScene) -> np.ndarray:
        batch, number = scene.kind.shape
        place = np.arange(batch)
        camera = torch.cat(camera_frame(scene.camera.double(), self.config), dim=1).numpy()
        tiles = np.concatenate([np.stack([place % self.columns, place // self.columns], 1), camera], 1).astype(
            np.float32
        )
        self.target.use()
        self.target.clear()
        self.context.enable_only(self.context.DEPTH_TEST)
        each = self.context.buffer(tiles)
        ground = self.context.vertex_array(
            self.ground,
            [(self.corners, "2f", "corner"), (each, "2f 3f 3f 3f 3f/i", "tile", "eye", "right", "up", "forward")],
        )
        ground.render(mode=self.context.TRIANGLE_STRIP, instances=batch)
        self.context.enable_only(self.context.DEPTH_TEST | self.context.CULL_FACE)
        row = np.repeat(place, number)
        kinds, present = scene.kind.reshape(-1).numpy(), scene.present.reshape(-1).numpy()
        poses = scene.pose.reshape(-1, 3).float().numpy()
        for index, (kind, (vertices, faces)) in enumerate(zip(self.config.kinds, self.meshes, strict=True)):
            chosen = np.flatnonzero(present & (kinds == index))
            if len(chosen) == 0:
                continue
            sizes = np.full((len(chosen), 1), kind.size, np.float32)
            paint = np.broadcast_to(self.colors[index], (len(chosen), 3))
            rows = np.concatenate([poses[chosen], sizes, paint, tiles[row[chosen]]], 1).astype(np.float32)
            names = ("pose", "paint", "tile", "eye", "right", "up", "forward")
            things = self.context.buffer(np.ascontiguousarray(rows))
            array = self.context.vertex_array(
                self.objects,
                [(vertices, "3f 3f", "at", "normal"), (things, "4f 3f 2f 3f 3f 3f 3f/i", *names)],
                index_buffer=faces,
                index_element_size=4,
            )
            array.render(mode=self.context.TRIANGLES, instances=len(chosen))
            array.release()
            things.release()
        ground.release()
        each.release()
        return self._tiles(batch)

    def _tiles(self, batch: int) -> np.ndarray:
        """(B, 3, H, W) from the atlas."""
        (width, height), samples = self.tile, self.config.samples
        size = (self.columns * height, self.columns * width)
        atlas = np.frombuffer(self.target.read(components=3, dtype="f4"), np.float32).reshape(*size, 3)[::-1]
        used = -(-batch // self.columns)
        tiles = atlas[: used * height].reshape(
            used, self.config.height, samples, self.columns, self.config.width, samples, 3
        )
        small = tiles.mean(axis=(2, 5)).transpose(0, 2, 4, 1, 3)
        return small.reshape(-1, 3, self.config.height, self.config.width)[:batch]
