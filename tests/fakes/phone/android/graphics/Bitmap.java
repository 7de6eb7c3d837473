package android.graphics;

/** A decoded picture, a number 0xAARRGGBB a pixel, row by row. */
public final class Bitmap {
    private final int[] argb;
    private final int width;

    public Bitmap(int[] argb, int width) {
        this.argb = argb;
        this.width = width;
    }

    public int getWidth() {
        return width;
    }

    public int getHeight() {
        return argb.length / width;
    }

    public void getPixels(int[] pixels, int offset, int stride, int x, int y, int width, int height) {
        for (int row = 0; row < height; row++) {
            System.arraycopy(argb, (y + row) * this.width + x, pixels, offset + row * stride, width);
        }
    }
}
