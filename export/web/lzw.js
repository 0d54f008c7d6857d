// LZW, in which many aerial images are packed. The decoder of geotiff.js takes five times as long, and any memory.

/**
 * Undoes LZW as TIFF has it: highest bit first, codes of 9 to 12 bits that grow one code early.
 * @param {Uint8Array} stored the packed bytes
 * @param {number} most how many bytes they hold at most; what comes after them is left
 * @returns {Uint8Array} the bytes, fewer where the packed ones end early
 */
export function unlzw(stored, most) {
  const CLEAR = 256, END = 257;
  const result = new Uint8Array(most);
  const starts = new Uint32Array(4096); // a code stands for bytes that were written before: where, and how many
  const lengths = new Uint16Array(4096);
  let length = 0, next = 258, bits = 9, previous = -1, previousStart = 0;
  let buffer = 0, available = 0; // bits that were read and not used
  for (let position = 0; length < most; ) {
    while (available < bits) {
      if (position >= stored.length) return result.slice(0, length);
      buffer = ((buffer << 8) | stored[position++]) & 0xffffff;
      available += 8;
    }
    const code = (buffer >> (available - bits)) & ((1 << bits) - 1);
    available -= bits;
    if (code === END) break;
    if (code === CLEAR) {
      next = 258;
      bits = 9;
      previous = -1;
      continue;
    }
    const start = length;
    if (code < 256) {
      result[length++] = code;
    } else {
      const known = code < next;
      if (previous < 0 || code > next) throw new Error("a code stands for nothing");
      const from = known ? starts[code] : previousStart;
      const count = known ? lengths[code] : start - previousStart + 1;
      for (let i = 0; i < count && length < most; i++) result[length++] = result[from + i];
    }
    if (previous >= 0 && next < 4096) {
      starts[next] = previousStart;
      lengths[next++] = start - previousStart + 1;
    }
    if (next >= (1 << bits) - 1 && bits < 12) bits++;
    previous = code;
    previousStart = start;
  }
  return length < most ? result.slice(0, length) : result;
}
