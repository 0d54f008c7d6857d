import android.graphics.Bitmap
import java.io.DataInputStream
import java.io.File
import rsseg.ondevice.LiteRtModel
import rsseg.ondevice.Segmenter
import rsseg.ondevice.manifestOf
import rsseg.ondevice.pictureOf
import rsseg.ondevice.segment

/** Labels an image as an app does: MODEL IMAGE (width, height, colours) LABELS MANIFEST. */
fun main(arguments: Array<String>) {
    val read = DataInputStream(File(arguments[1]).inputStream().buffered())
    val width = read.readInt()
    val height = read.readInt()
    val colours = IntArray(width * height) { read.readInt() }
    val picture = Bitmap.createBitmap(colours, width, height, Bitmap.Config.ARGB_8888)
    File(arguments[3]).writeText(manifestOf(File(arguments[0])))
    val labels = LiteRtModel(File(arguments[0])).use { model -> Segmenter(model).segment(picture) }
    val shown = IntArray(labels.size)
    pictureOf(labels, width, IntArray(256) { it }).getPixels(shown, 0, width, 0, 0, width, height)
    check(shown.indices.all { shown[it] == labels[it].toInt() and 0xff })
    File(arguments[2]).writeBytes(labels)
}
