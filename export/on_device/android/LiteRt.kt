package rsseg.ondevice

import android.graphics.Bitmap
import java.io.Closeable
import java.io.File
import java.nio.ByteBuffer
import java.nio.ByteOrder
import java.util.zip.ZipFile
import org.tensorflow.lite.DataType
import org.tensorflow.lite.Interpreter

private const val SIGNATURE = "serving_default"

/**
 * A .tflite file of `rsseg-tf export --format tflite --tile HEIGHT WIDTH`, in LiteRT.
 *
 * In build.gradle: `implementation("com.google.ai.edge.litert:litert:1.4.2")`. A model among the app's assets is copied to
 * a file first, for instance into `cacheDir`.
 *
 * @param threads how many LiteRT uses; two to four suit most phones
 */
class LiteRtModel(file: File, threads: Int = 4) : WindowModel, Closeable {
    private val interpreter = Interpreter(file, Interpreter.Options().setNumThreads(threads))
    private val output = interpreter.getOutputTensorFromSignature("logits", SIGNATURE)
    override val height: Int
    override val width: Int
    override val classes = output.shape()[3]
    private val input: ByteBuffer
    private val found = ByteBuffer.allocateDirect(output.numBytes()).order(ByteOrder.nativeOrder())

    init {
        val pixels = interpreter.getInputTensorFromSignature("pixels", SIGNATURE)
        val shape = pixels.shapeSignature()
        require(pixels.dataType() == DataType.UINT8 && shape[3] == 3 && shape[1] > 0 && shape[2] > 0) {
            "a model of one size (--tile), for three bands of 8 bits, is needed"
        }
        height = shape[1]
        width = shape[2]
        input = ByteBuffer.allocateDirect(height * width * 3).order(ByteOrder.nativeOrder())
    }

    override fun logits(pixels: ByteArray): FloatArray {
        input.rewind()
        input.put(pixels)
        input.rewind()
        found.rewind()
        interpreter.runSignature(mapOf<String, Any>("pixels" to input), mapOf<String, Any>("logits" to found), SIGNATURE)
        found.rewind()
        val logits = FloatArray(height * width * classes)
        if (output.dataType() == DataType.FLOAT32) {
            found.asFloatBuffer().get(logits)
        } else { // whole numbers of an int8 model
            val scale = output.quantizationParams().scale
            val zero = output.quantizationParams().zeroPoint
            val signed = output.dataType() == DataType.INT8
            for (i in logits.indices) {
                val stored = found.get().toInt()
                logits[i] = ((if (signed) stored else stored and 0xff) - zero).toFloat() * scale
            }
        }
        return logits
    }

    override fun close() = interpreter.close()
}

/**
 * The manifest of a .tflite file, JSON: names and colours of the classes are in `dataset`.
 *
 * `JSONObject(manifestOf(file)).getJSONObject("dataset").getJSONArray("classes")`
 */
fun manifestOf(file: File): String = ZipFile(file).use { archive ->
    archive.getInputStream(archive.getEntry("manifest.json")).readBytes().toString(Charsets.UTF_8)
}

/**
 * Class ids (height, width) of a picture, row by row.
 *
 * Decode it as it is: `BitmapFactory.Options().apply { inScaled = false; inPremultiplied = false }`.
 */
fun Segmenter.segment(picture: Bitmap): ByteArray {
    val colours = IntArray(picture.width * picture.height)
    picture.getPixels(colours, 0, picture.width, 0, 0, picture.width, picture.height)
    val pixels = ByteArray(colours.size * 3)
    for (i in colours.indices) {
        pixels[3 * i] = (colours[i] shr 16).toByte()
        pixels[3 * i + 1] = (colours[i] shr 8).toByte()
        pixels[3 * i + 2] = colours[i].toByte()
    }
    return segment(pixels, picture.height, picture.width)
}

/** A picture of class ids, to lay over the image. Colours are 0xAARRGGBB, by class. */
fun pictureOf(labels: ByteArray, width: Int, colours: IntArray): Bitmap {
    val pixels = IntArray(labels.size) { colours[labels[it].toInt() and 0xff] }
    return Bitmap.createBitmap(pixels, width, labels.size / width, Bitmap.Config.ARGB_8888)
}
