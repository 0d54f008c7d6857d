package org.tensorflow.lite;

import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.util.Map;

/** Stands in for LiteRT's class of this name: asks the process that started this one, which runs the model in LiteRT. */
public final class Interpreter implements AutoCloseable {
    public static class Options {
        public Options setNumThreads(int numThreads) {
            return this;
        }
    }

    private static final DataInputStream IN = new DataInputStream(System.in);
    private static final DataOutputStream OUT = new DataOutputStream(System.out);

    public Interpreter(File modelFile, Options options) {
        if (!modelFile.isFile()) throw new IllegalArgumentException(modelFile.toString());
    }

    public Tensor getInputTensorFromSignature(String inputName, String signatureKey) {
        return tensor(inputName, signatureKey);
    }

    public Tensor getOutputTensorFromSignature(String outputName, String signatureKey) {
        return tensor(outputName, signatureKey);
    }

    public void runSignature(Map<String, Object> inputs, Map<String, Object> outputs, String signatureKey) {
        try {
            ByteBuffer input = (ByteBuffer) inputs.get("pixels");
            byte[] sent = new byte[input.remaining()];
            input.get(sent);
            OUT.writeInt(sent.length);
            OUT.write(sent);
            OUT.flush();
            byte[] answer = new byte[IN.readInt()];
            IN.readFully(answer);
            ((ByteBuffer) outputs.get("logits")).put(answer);
        } catch (IOException error) {
            throw new IllegalStateException(error);
        }
    }

    @Override
    public void close() {}

    private static Tensor tensor(final String name, String signatureKey) {
        if (!signatureKey.equals("serving_default")) throw new IllegalArgumentException(signatureKey);
        final String[] sizes = System.getProperty(name + ".shape").split(",");
        return new Tensor() {
            public DataType dataType() {
                return DataType.valueOf(System.getProperty(name + ".dtype"));
            }

            public int numBytes() {
                int bytes = dataType() == DataType.FLOAT32 ? 4 : 1;
                for (int size : shape()) bytes *= size;
                return bytes;
            }

            public int[] shape() {
                int[] shape = shapeSignature();
                for (int i = 0; i < shape.length; i++) shape[i] = Math.max(1, shape[i]);
                return shape;
            }

            public int[] shapeSignature() {
                int[] shape = new int[sizes.length];
                for (int i = 0; i < shape.length; i++) shape[i] = Integer.parseInt(sizes[i]);
                return shape;
            }

            public QuantizationParams quantizationParams() {
                return new QuantizationParams(
                    Float.parseFloat(System.getProperty(name + ".scale")), Integer.getInteger(name + ".zero_point"));
            }
        };
    }
}
