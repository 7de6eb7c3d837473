package org.tensorflow.lite;

import java.nio.ByteBuffer;
import java.util.Map;

/** Computes nothing: keeps what it was handed, where a test finds it, and answers 1, 2, 3 and so on. */
public final class Interpreter implements AutoCloseable {
    public static byte[] handed = {};

    public Interpreter(ByteBuffer model) {
        if (!model.isDirect()) {
            throw new IllegalArgumentException("a model is a MappedByteBuffer or a direct one");
        }
    }

    public void runSignature(Map<String, Object> inputs, Map<String, Object> outputs) {
        ByteBuffer image = (ByteBuffer) inputs.get("image");
        handed = new byte[image.remaining()];
        image.get(handed);
        for (Object output : outputs.values()) {
            if (output instanceof ByteBuffer buffer) {
                for (int at = 0; buffer.hasRemaining(); at++) {
                    buffer.put((byte) (at + 1));
                }
            } else {
                float[] row = ((float[][]) output)[0];
                for (int at = 0; at < row.length; at++) {
                    row[at] = at + 1;
                }
            }
        }
    }

    public Tensor getOutputTensorFromSignature(String outputName, String signatureKey) {
        return () -> new int[] {1, 5};
    }

    @Override
    public void close() {}
}
