package org.tensorflow.lite;

/** Stands in for LiteRT's class of this name; what it says is taken from the system's properties. */
public interface Tensor {
    class QuantizationParams {
        private final float scale;
        private final int zeroPoint;

        public QuantizationParams(float scale, int zeroPoint) {
            this.scale = scale;
            this.zeroPoint = zeroPoint;
        }

        public float getScale() {
            return scale;
        }

        public int getZeroPoint() {
            return zeroPoint;
        }
    }

    DataType dataType();

    int numBytes();

    int[] shape();

    int[] shapeSignature();

    QuantizationParams quantizationParams();
}
