package rsseg.ondevice

/** A model that labels windows of one size. */
interface WindowModel {
    val height: Int
    val width: Int
    val classes: Int

    /** Logits (height, width, classes) of the pixels (height, width, 3) of a window; both row by row. */
    fun logits(pixels: ByteArray): FloatArray
}

/**
 * Labels images of any size: overlapping windows, whose logits are averaged.
 *
 * Labels equal those of `rsseg-tf predict --blend mean` with the same file. Nothing in here needs Android.
 *
 * @param strideHeight pixels from a window to the next one below it; three quarters of a window unless given
 * @param strideWidth the same to the right
 */
class Segmenter(
    private val model: WindowModel,
    private val strideHeight: Int = maxOf(1, model.height * 3 / 4),
    private val strideWidth: Int = maxOf(1, model.width * 3 / 4)
) {
    /** Class ids (height, width) of the pixels (height, width, 3) of an image, 8 bits each; both row by row. */
    fun segment(pixels: ByteArray, height: Int, width: Int): ByteArray {
        require(pixels.size == height * width * 3) { "three bytes per pixel are needed" }
        val sums = DoubleArray(height * width * model.classes)
        val counts = IntArray(height * width)
        for (top in starts(height, model.height, strideHeight)) {
            for (left in starts(width, model.width, strideWidth)) {
                add(model.logits(window(pixels, height, width, top, left)), height, width, top, left, sums, counts)
            }
        }
        return ByteArray(height * width) { pixel -> largest(sums, counts[pixel], pixel * model.classes).toByte() }
    }

    /** The window that begins at (top, left); an image that is smaller is continued by its mirror image. */
    private fun window(pixels: ByteArray, height: Int, width: Int, top: Int, left: Int): ByteArray {
        val found = ByteArray(model.height * model.width * 3)
        var to = 0
        for (y in 0 until model.height) {
            val row = top + mirrored(y, height - top)
            for (x in 0 until model.width) {
                val from = (row * width + left + mirrored(x, width - left)) * 3
                for (band in 0 until 3) found[to++] = pixels[from + band]
            }
        }
        return found
    }

    private fun add(
        logits: FloatArray, height: Int, width: Int, top: Int, left: Int, sums: DoubleArray, counts: IntArray
    ) {
        for (y in 0 until minOf(model.height, height - top)) {
            for (x in 0 until minOf(model.width, width - left)) {
                val pixel = (top + y) * width + left + x
                val from = (y * model.width + x) * model.classes
                for (k in 0 until model.classes) sums[pixel * model.classes + k] += logits[from + k].toDouble()
                counts[pixel] += 1
            }
        }
    }

    private fun largest(sums: DoubleArray, count: Int, from: Int): Int {
        var best = 0
        for (k in 1 until model.classes) {
            if ((sums[from + k] / count).toFloat() > (sums[from + best] / count).toFloat()) best = k
        }
        return best
    }

    private companion object {
        /** First pixels of the windows along an axis; the last one ends with the image. */
        fun starts(size: Int, window: Int, stride: Int): List<Int> {
            val last = maxOf(0, size - window)
            return (0 until last step stride).toList() + last
        }

        /** Index into a line that is continued by its mirror image, without repeating the last pixel. */
        fun mirrored(index: Int, size: Int): Int {
            if (size == 1) return 0
            val place = index % (2 * (size - 1))
            return if (place < size) place else 2 * (size - 1) - place
        }
    }
}
