/** Sixteen-bit floats to and from f32: bf16 (8 bits of exponent, 7 of fraction) and IEEE half precision (5 and 10). */

/** The upper half of an f32 back to f32, exactly. */
export function bf16ToFloat32(values: Uint16Array): Float32Array<ArrayBuffer> {
  const bits = new Uint32Array(values.length);
  for (let index = 0; index < values.length; index++) bits[index] = values[index]! << 16;
  return new Float32Array(bits.buffer);
}

/** f32 to bf16, to nearest, ties to even; too large becomes infinity, NaN stays NaN. */
export function float32ToBf16(values: Float32Array): Uint16Array<ArrayBuffer> {
  const bits = new Uint32Array(values.buffer, values.byteOffset, values.length);
  const rounded = new Uint16Array(values.length);
  for (let index = 0; index < bits.length; index++) {
    const value = bits[index]!;
    const isNan = (value & 0x7fffffff) > 0x7f800000;
    rounded[index] = isNan ? (value >>> 16) | 0x40 : (value + 0x7fff + ((value >>> 16) & 1)) >>> 16;
  }
  return rounded;
}

/** IEEE half precision to f32, exactly. */
export function float16ToFloat32(values: Uint16Array): Float32Array<ArrayBuffer> {
  const bits = new Uint32Array(values.length);
  const floats = new Float32Array(bits.buffer);
  for (let index = 0; index < values.length; index++) {
    const value = values[index]!;
    const sign = (value & 0x8000) << 16;
    const exponent = (value >>> 10) & 0x1f;
    const fraction = value & 0x3ff;
    if (exponent === 31) bits[index] = sign | 0x7f800000 | (fraction << 13);
    else if (exponent !== 0) bits[index] = sign | ((exponent + 112) << 23) | (fraction << 13);
    else floats[index] = (sign < 0 ? -1 : 1) * fraction * 2 ** -24;
  }
  return floats;
}
