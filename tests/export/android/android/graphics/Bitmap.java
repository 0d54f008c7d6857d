package android.graphics;

/** Stands in for Android's class of this name: the methods that the example calls, with the same declarations. */
public final class Bitmap {
    public enum Config { ALPHA_8, RGB_565, ARGB_4444, ARGB_8888, RGBA_F16, HARDWARE }

    private final int[] colours;
    private final int width;
    private final int height;

    private Bitmap(int[] colours, int width, int height) {
        this.colours = colours;
        this.width = width;
        this.height = height;
    }

    public static Bitmap createBitmap(int[] colors, int width, int height, Config config) {
        return new Bitmap(colors.clone(), width, height);
    }

    public int getWidth() {
        return width;
    }

    public int getHeight() {
        return height;
    }

    public void getPixels(int[] pixels, int offset, int stride, int x, int y, int width, int height) {
        for (int row = 0; row < height; row++)
            System.arraycopy(colours, (y + row) * this.width + x, pixels, offset + row * stride, width);
    }
}
